"""Folders of images on object stores (``gs://``, ``s3://``, …): a local copy of what is there, kept up to date.

Read with fsspec. Of every object the store tells a size and a tag (checksum, generation or time) that changes with its
content; what has the tag of the copy is not downloaded again. What is downloaded is compared with the size, and with
the MD5 sum where the store tells it.
"""

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune_jax.config import stores
from finetune_jax.data.parallel import ordered_map
from finetune_jax.errors import UserError

_LIST = ".objects.json"
_LOCK = ".lock"
_TAGS = ("etag", "ETag", "md5Hash", "content_md5", "generation", "crc32c", "mtime", "LastModified", "created")
_DOWNLOADS = 16
"""At once: they wait for the network most of the time."""


def local_copy(address: str, cache_dir: str | os.PathLike[str] | None, *, progress: bool = False) -> Path:
    """The local copy of a folder on a store, below ``cache_dir``, which is brought up to date first.

    Args:
        address: such as ``gs://bucket/photos``.
        cache_dir: of the run; several processes of a host share a copy.
        progress: whether to show a bar.

    Raises:
        UserError: the store cannot be reached, the folder is empty, or the copy has no room.
    """
    flag = f"--dataset=folder:{address}"
    if cache_dir is None:
        raise UserError(f"{flag} is downloaded into --cache_dir, which is empty; name a folder")
    root = Path(cache_dir).expanduser() / "stores" / hashlib.sha256(address.encode()).hexdigest()[:16]
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root):
        system, above = stores.opened(flag, address)
        with stores.explained(flag):
            # A listing that fsspec remembers may be older than what is there.
            system.invalidate_cache()
            listing = dict(system.find(above, detail=True))
        there = {
            stores.relative(flag, name, above): info
            for name, info in listing.items()
            if not name.endswith("/")
        }
        if not there:
            raise UserError(
                f"{flag}: there is nothing below that address; see the bucket and the folder's name"
            )
        _bring_up_to_date(flag, system, above, there, root, progress)
    return root


def _bring_up_to_date(
    flag: str, system: Any, above: str, there: Mapping[str, Any], root: Path, progress: bool
) -> None:
    known = _known(root)
    listed: dict[str, list[Any]] = {name: [int(info["size"]), _tag(info)] for name, info in there.items()}
    for name in [name for name in known if name not in listed]:
        (root / name).unlink(missing_ok=True)
        del known[name]
    new = [
        name
        for name, entry in listed.items()
        # Without a tag nothing says whether it is still the same.
        if known.get(name) != entry or not entry[1] or not (root / name).is_file()
    ]
    needed = sum(listed[name][0] for name in new)
    free = shutil.disk_usage(root).free
    if needed > free:
        raise UserError(
            f"{flag}: {needed / 2**30:.1f} GiB are to be downloaded, and --cache_dir has {free / 2**30:.1f} GiB left: "
            "make room there or choose another folder"
        )

    def download(place: int) -> str:
        name = new[place]
        with stores.explained(flag):
            content = system.cat_file(f"{above}/{name}" if above else name)
        _check(flag, name, content, there[name])
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{secrets.token_hex(8)}")
        temporary.write_bytes(content)
        os.replace(temporary, target)
        return name

    try:
        arrivals = ordered_map(download, len(new), workers=_DOWNLOADS, progress=progress, title="downloading")
        for name in arrivals:
            known[name] = listed[name]
    finally:
        temporary = root / f"{_LIST}.{secrets.token_hex(4)}"
        temporary.write_text(json.dumps(known))
        os.replace(temporary, root / _LIST)


def _check(flag: str, name: str, content: bytes, info: Mapping[str, Any]) -> None:
    md5 = hashlib.md5(content, usedforsecurity=False)
    base64_md5 = info.get("md5Hash")  # of Google Cloud Storage
    tag = str(info.get("ETag", "")).strip('"')  # of S3: the sum, unless it was uploaded in parts or encrypted
    is_sum = len(tag) == 32 and "SSEKMSKeyId" not in info
    if len(content) != int(info["size"]) or (base64_md5 and base64.b64decode(base64_md5) != md5.digest()):
        raise UserError(f"{flag}: {name} arrived with other content than the store lists; start again")
    if is_sum and tag != md5.hexdigest() and info.get("ServerSideEncryption") in (None, "AES256"):
        raise UserError(f"{flag}: {name} arrived with other content than the store lists; start again")


def _tag(info: Mapping[str, Any]) -> str:
    return next((str(info[name]) for name in _TAGS if info.get(name)), "")


def _known(root: Path) -> dict[str, list[Any]]:
    try:
        known = json.loads((root / _LIST).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    with (root / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
