"""The files of a run directory or study at one moment, while a process goes on writing them."""

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from finetune_jax.files import lock
from finetune_jax.files.store_directory import INSIDE

WRITTEN_ONCE = frozenset({"checkpoints", "compact"})
"""Folders whose files are whole as soon as they are there, and are never changed."""

Status = tuple[int, int, str]
"""Size, time and digest of a file."""


class Unsteady(Exception):
    """The directory changed while it was looked at."""


def steady(folder: Path, seen: dict[str, Status]) -> tuple[dict[str, Status], dict[str, bytes]]:
    """The status of every file, and contents of the changed ones that are not written once.

    They are of one moment: rows of tables are written before the checkpoint that they belong to, so tables must not be
    older than the checkpoints; and a summary after the last one, so they must not be newer.

    Args:
        folder: of the directory.
        seen: what is known of its files, which are not read again as long as size and time are the same; gains those
            that are written once.

    Raises:
        Unsteady: it was none.
    """
    statuses: dict[str, tuple[int, int, str]] = {}
    contents: dict[str, bytes] = {}
    try:
        once = dict(walk(folder, once=True))
        for name, (size, time_ns) in once.items():
            known = seen.get(name, (0, 0, ""))
            digest = known[2] if known[:2] == (size, time_ns) else digest_of_file(folder / name)
            statuses[name] = seen[name] = (size, time_ns, digest)
        for name, (size, time_ns) in walk(folder, once=False):
            known = seen.get(name, (0, 0, ""))
            if known[2] and known[:2] == (size, time_ns):
                statuses[name] = known
            else:
                content = contents[name] = (folder / name).read_bytes()
                statuses[name] = (len(content), time_ns, digest_of(content))
    except FileNotFoundError as error:
        raise Unsteady from error
    if dict(walk(folder, once=True)) != once:
        raise Unsteady
    return statuses, contents


def walk(folder: Path, *, once: bool | None = None) -> Iterable[tuple[str, tuple[int, int]]]:
    """Name, size and time of every file of a directory, without locks and what is being written.

    Args:
        folder: of the directory.
        once: only those in folders whose files are written once, or only the others.
    """
    for above, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if ".orbax-checkpoint-tmp" not in name and name != INSIDE
        )
        parts = Path(above).relative_to(folder).parts
        if once is not None and once == WRITTEN_ONCE.isdisjoint(parts):
            continue
        for name in sorted(names):
            if name.startswith(lock.NAME) or name.endswith(".tmp"):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(os.path.join(above, name))
                yield "/".join([*parts, name]), (status.st_size, status.st_mtime_ns)


def remove_others(folder: Path, files: Collection[str]) -> None:
    """Empty a folder but for some files; also of what is half written, and of folders that are left empty."""
    for above, _, names in os.walk(folder, topdown=False):
        parts = Path(above).relative_to(folder).parts
        for name in names:
            if "/".join([*parts, name]) not in files:
                os.unlink(os.path.join(above, name))
        if above != str(folder):
            with contextlib.suppress(OSError):
                os.rmdir(above)


def digest_of_file(file: Path) -> str:
    """Digest of the content of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def digest_of(content: bytes) -> str:
    """Digest of a content."""
    return hashlib.sha256(content).hexdigest()
