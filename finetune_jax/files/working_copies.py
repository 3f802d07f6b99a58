"""The working copies of this process: which address lies in which folder."""

import hashlib
import os
import socket
from pathlib import Path, PurePosixPath

from finetune_jax.errors import UserError
from finetune_jax.files.working_copy import WorkingCopy

ROOT = os.path.join("~", ".cache", "finetune_jax", "working_copies")
"""Folder of all copies."""
WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pth", ".pt")


def folder_of(address: str, root: Path, key: str) -> Path:
    """Where the copy of an address lies.

    Args:
        address: on the store.
        root: of all copies.
        key: of this machine and process.

    >>> folder_of("gs://bucket/runs/photos/", Path("/copies"), "n1").name
    'photos'
    """
    address = address.rstrip("/")
    words = hashlib.sha256(address.encode()).hexdigest()[:16]
    return root / key / words / (PurePosixPath(address.partition("://")[2]).name or "root")


_held: list[WorkingCopy] = []


def read(address: str, root: Path | None = None, flag: str = "") -> Path:
    """A folder or file on a store, brought here.

    Args:
        address: such as ``gs://bucket/runs/photos``, or ``….safetensors``.
        root: of all copies.
        flag: with its value, for messages.

    Raises:
        UserError: the store does not give it.
    """
    copy = hold(address, root, flag)
    if address.endswith(WEIGHT_SUFFIXES):
        copy.fetch_file()
    else:
        copy.fetch()
        if not any(copy.folder.iterdir() if copy.folder.is_dir() else ()):
            raise UserError(f"{copy.flag}: there is nothing at that address")
    return copy.folder


def hold(address: str, root: Path | None = None, flag: str = "", process: int | None = None) -> WorkingCopy:
    """The copy of an address, known from now on to :func:`of` and :func:`named`; nothing is brought here yet.

    Args:
        address: on the store.
        root: of all copies.
        flag: with its value, for messages.
        process: number of this process among those of a job that work on the directory; they have no copy in common.
            None only reads it.
    """
    key = "read" if process is None else f"{socket.gethostname()}-{process}"
    folder = folder_of(address, root or Path(ROOT).expanduser(), key)
    copy = WorkingCopy(address, folder.absolute(), flag or address)
    _held.append(copy)
    return copy


def read_copies() -> list[WorkingCopy]:
    """Those that this process only reads."""
    return [copy for copy in _held if copy.folder.is_dir() and not copy.is_worked_on]


def of(path: Path) -> WorkingCopy | None:
    """The copy that a path lies in; None for an ordinary folder."""
    path = path.absolute()
    return next((copy for copy in _held if copy.folder in (path, *path.parents)), None)


def publish(path: Path) -> None:
    """Let the other processes of a job see a directory as it is, where it is a copy that this process commits.

    Raises:
        UserError: the store does not take it.
    """
    copy = of(path)
    if copy is not None and copy.is_worked_on:
        copy.commit()


def refresh(path: Path) -> None:
    """As another process of the job, see what :func:`publish` has shown; errors likewise."""
    copy = of(path)
    if copy is not None and not copy.is_worked_on:
        copy.fetch()


def named(text: str) -> str:
    """A text in which copies are called by their addresses."""
    for copy in _held:
        text = text.replace(str(copy.folder), copy.address)
    return text


def let_go() -> None:
    """Forget the copies, and release those that this process works on."""
    for copy in _held:
        copy.release()
    _held.clear()
