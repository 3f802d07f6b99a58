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


def recall(cache_dir: str | os.PathLike[str] | None, key: str) -> dict[str, Any]:
    """What `remember` stored under `key`; empty if there is nothing (whole)."""
    if cache_dir is None:
        return {}
    try:
        digest, _, content = _path(cache_dir, key).read_bytes().partition(b"\n")
        if digest != _digest(content):
            return {}
        entry = json.loads(content)
    except _DAMAGED:
        return {}
    return entry if isinstance(entry, dict) else {}


def remember(cache_dir: str | os.PathLike[str] | None, key: str, entry: dict[str, Any]) -> None:
    """Stores a JSON object, in one piece even if several processes do it at once."""
    if cache_dir is None:
        return
    path = _path(cache_dir, key)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    content = json.dumps(entry).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(_digest(content) + b"\n" + content)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode()


def _path(cache_dir: str | os.PathLike[str], key: str) -> Path:
    return Path(cache_dir) / "index" / f"{key}.json"
