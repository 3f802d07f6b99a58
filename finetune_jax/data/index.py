"""What is known about files that have not changed, so that a second start need not read them again.

One small JSON file per entry in ``<cache_dir>/index``. Everything in it can be computed anew, so whatever
is wrong with it (missing, damaged, not writable) costs time and nothing else.
"""

import contextlib
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

from finetune_jax.errors import DAMAGE

_DAMAGED: tuple[type[Exception], ...] = (OSError, *DAMAGE)
# A file is one JSON object that begins with the digest of all the bytes behind it, under a name that is no path.
_DIGEST = ""
_BEGINNING = b'{"": "%s"'
_LENGTH = len(_BEGINNING % bytes(32))


def recall(cache_dir: str | os.PathLike[str] | None, key: str) -> dict[str, Any]:
    """What `remember` stored under `key`; empty if there is nothing (whole)."""
    if cache_dir is None:
        return {}
    try:
        content = _path(cache_dir, key).read_bytes()
        if content[:_LENGTH] != _beginning(content[_LENGTH:]):
            return {}
        entry = json.loads(content)
        del entry[_DIGEST]
    except _DAMAGED:
        return {}
    return entry


def remember(cache_dir: str | os.PathLike[str] | None, key: str, entry: dict[str, Any]) -> None:
    """Stores a JSON object, in one piece even if several processes do it at once."""
    if cache_dir is None:
        return
    path = _path(cache_dir, key)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    rest = (b", " if entry else b"") + json.dumps(entry).encode()[1:]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(_beginning(rest) + rest)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _beginning(rest: bytes) -> bytes:
    return _BEGINNING % hashlib.blake2b(rest, digest_size=16).hexdigest().encode()


def _path(cache_dir: str | os.PathLike[str], key: str) -> Path:
    return Path(cache_dir) / "index" / f"{key}.json"
