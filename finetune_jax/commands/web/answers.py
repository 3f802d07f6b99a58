"""What is asked of the app, and what it answers."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

HTML = "text/html; charset=utf-8"


@dataclasses.dataclass(frozen=True)
class Request:
    """A request that has been let in.

    Attributes:
        method: ``GET`` or ``POST``.
        path: parts of the path between slashes, decoded.
        query: the last value of each name.
        body: of a ``POST``.
        file_name: that the browser gives what it sends.
    """

    method: str
    path: tuple[str, ...]
    query: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    file_name: str = ""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is sent back.

    Attributes:
        body: bytes.
        kind: their media type.
        status: of HTTP.
        headers: more of them.
        stands: whether an equal answer need not be sent again.
    """

    body: bytes
    kind: str = HTML
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stands: bool = False

    @property
    def tag(self) -> str:
        """Of the content, for ``ETag``."""
        return f'"{hashlib.blake2b(self.body, digest_size=12).hexdigest()}"'


def html(text: str, status: int = 200, *, stands: bool = False) -> Answer:
    """A page, or a part of one."""
    return Answer(text.encode(), status=status, stands=stands)


def as_json(value: Any, *, stands: bool = False) -> Answer:
    """Plain values."""
    return Answer(json.dumps(value).encode(), "application/json", stands=stands)
