"""What lies below a folder: images, other files, and what is left out, whatever a disk may hold.

Links are followed, but no folder twice; devices, pipes and sockets are never opened.
"""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from finetune_jax.data.formats import suffix_of, suffixes
from finetune_jax.errors import UserError, readable

DEEPEST = 64
"""Folders within folders that are looked into; more of them are a mistake or a trap."""

_SYSTEM_NAMES = frozenset(
    {
        "__macosx",
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "@sharebin",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "$extend",
        "recycler",
        "recycled",
        "lost+found",
        "found.000",
        "system volume information",
        "thumbs",
        "thumbs.db",
        "thumbnails",
        "desktop.ini",
        "__pycache__",
        "ipynb_checkpoints",
        "aspnet_client",
        "_gsdata_",
        "_vti_cnf",
    }
)
_RUN_FILES = frozenset({"checkpoints", "metrics.csv", "passes.csv", "summary.json", "tensorboard", "trials"})


class File(NamedTuple):
    """An image file and what of its status changes with its content; all zero for a link that leads nowhere."""

    path: str
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0


class LeftOut:
    """Counts what is passed over, for notes and messages."""

    def __init__(self) -> None:
        self.suffixes: Counter[str] = Counter()
        self.system: dict[str, str] = {}
        self.runs: dict[str, None] = {}
        self.special = 0

    def notes(self) -> tuple[str, ...]:
        """One sentence for each kind of thing that was left out."""
        notes = []
        if self.suffixes:
            notes.append(
                f"{self.suffixes.total()} files are no images by their suffix and were left out "
                f"({counted_suffixes(self.suffixes)})"
            )
        if self.system:
            counts = Counter(self.system.values())
            names = ", ".join(f"{readable(name)} {count}" for name, count in counts.most_common(5))
            notes.append(f"{counts.total()} folders that systems and tools make were left out ({names})")
        if self.runs:
            notes.append(
                f"{len(self.runs)} directories of runs were left out ({readable(next(iter(self.runs)))}"
                f"{', …' if len(self.runs) > 1 else ''})"
            )
        if self.special:
            notes.append(f"{self.special} devices, pipes or sockets were left out")
        return tuple(notes)


def counted_suffixes(suffixes: Counter[str], most: int = 5) -> str:
    """``.txt 3, no suffix 1``, the most frequent first."""
    kinds = [f"{readable(suffix) or 'no suffix'} {count}" for suffix, count in suffixes.most_common(most)]
    return ", ".join(kinds) + (", …" if len(suffixes) > most else "")


def visible(folder: str | Path) -> list[os.DirEntry[str]]:
    """Entries of a folder in the order of their names, without hidden ones.

    Raises:
        UserError: it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise UserError(
            f"--dataset: cannot list the folder {readable(folder)}: {error.strerror}; make it readable or remove it"
        ) from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one.

    Raises:
        UserError: it is a link to a place that may not be looked at.
    """
    try:
        return entry.is_dir()
    except OSError as error:
        raise _forbidden(entry.path, error) from error


def subfolders(folder: str | Path, left_out: LeftOut | None = None) -> list[str]:
    """Names of the folders in a folder that may be classes or splits, in order.

    Args:
        folder: that holds them.
        left_out: counts system folders and directories of runs, which are not among them.
    """
    passed_over = left_out or LeftOut()
    return [
        entry.name for entry in visible(folder) if is_folder(entry) and not _passed_over(entry, passed_over)
    ]


def is_run(folder: str | Path) -> bool:
    """Whether a folder is the directory of a run, or of a study of several."""
    try:
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries}
    except OSError:
        return False
    if "flags.json" in names and (names & _RUN_FILES or names == {"flags.json"} or "data.npz" in names):
        return True
    # A study keeps its runs in runs/NAME/.
    if "runs" not in names:
        return False
    try:
        with os.scandir(os.path.join(folder, "runs")) as entries:
            return any(os.path.exists(os.path.join(entry.path, "flags.json")) for entry in entries)
    except OSError:
        return False


def images_below(folder: str | Path, left_out: LeftOut) -> Iterator[File]:
    """The image files below a folder, depth first, each folder's files and folders in the order of their names.

    Args:
        folder: to look into.
        left_out: counts what is passed over.

    Raises:
        UserError: a folder cannot be read, or there are more than :data:`DEEPEST` within each other.
    """
    known = suffixes()
    looked_into: set[tuple[int, int]] = set()
    waiting: list[Iterator[os.DirEntry[str]]] = [_entries(str(folder), looked_into)]
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
        elif is_folder(entry):
            if _passed_over(entry, left_out):
                continue
            if len(waiting) >= DEEPEST:
                raise UserError(
                    f"--dataset: {readable(entry.path)} lies in {DEEPEST} folders below "
                    f"{readable(folder)}: move its images up or remove it"
                )
            waiting.append(_entries(entry.path, looked_into))
        elif suffix_of(entry.name) not in known:
            left_out.suffixes[suffix_of(entry.name)] += 1
        else:
            yield from _file(entry, left_out)


def _entries(folder: str, looked_into: set[tuple[int, int]]) -> Iterator[os.DirEntry[str]]:
    """Of a folder that was not looked into before; none of one that was, by whatever links."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _forbidden(folder, error) from error
    here = (status.st_dev, status.st_ino)
    if here in looked_into:
        return iter(())
    looked_into.add(here)
    return iter(visible(folder))


def _file(entry: os.DirEntry[str], left_out: LeftOut) -> Iterator[File]:
    try:
        status = entry.stat()
    except OSError:  # a dead link, or a circle of them: reading it will say so
        yield File(entry.path)
        return
    if stat.S_ISREG(status.st_mode):
        yield File(entry.path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    else:
        left_out.special += 1


def _passed_over(entry: os.DirEntry[str], left_out: LeftOut) -> bool:
    name = unicodedata.normalize("NFC", entry.name).lower()
    if name in _SYSTEM_NAMES or name.startswith((".trash", "$recycle")):
        left_out.system[entry.path] = entry.name  # by path: a folder may be listed twice
        return True
    if is_run(entry.path):
        left_out.runs[entry.path] = None
        return True
    return False


def _forbidden(path: str, error: OSError) -> UserError:
    return UserError(
        f"--dataset: cannot look at {readable(path)}: {error.strerror}; make it readable or remove it"
    )
