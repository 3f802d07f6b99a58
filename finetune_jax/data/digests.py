"""Digests of the content of files, remembered where nothing tells that a file has changed."""

import hashlib
import os
import time
from collections.abc import Sequence

import numpy as np

from finetune_jax.data import index
from finetune_jax.data.examples import DIGEST_BYTES, digest_of, fingerprint_of
from finetune_jax.data.file_tree import File
from finetune_jax.data.near_duplicates import APPEARANCE_BYTES, appearance
from finetune_jax.data.parallel import ordered_map
from finetune_jax.data.regular_file import read_regular

RACY_NS = 2_000_000_000
"""A file changed less than two seconds ago may change again within one tick of the file system's clock."""

_Known = tuple[bytes, bytes | None]


def of_files(
    root: str,
    files: Sequence[File],
    *,
    appearances: bool,
    cache_dir: str | os.PathLike[str] | None,
    workers: int | None,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Digest of the content of every file, unchanged files not being read again.

    A file is unchanged when size, both time stamps and inode are: the time of the last change of the inode
    cannot be set back, as ``unzip``, ``rsync`` and ``cp -p`` do with that of the content.

    Args:
        root: under which the digests are remembered.
        files: N files.
        appearances: whether to look at the images too, see :func:`near_duplicates.appearance`.
        cache_dir: where digests are remembered; None reads everything.
        workers: number of threads.
        progress: whether to show a bar.

    Returns:
        uint8 ``[N, 16]``, zeros where a file cannot be read (whoever decodes it will say why); and what the images
        look like, uint8 ``[N, 75]``, zeros where that is not known, or None if not asked for.
    """
    key = fingerprint_of("folder", os.path.realpath(root))
    known = index.recall(cache_dir, key)
    started_ns = time.time_ns()
    digests_and_looks: list[_Known | None] = [
        _remembered(known.get(file.path), file, appearances) for file in files
    ]
    unread = [number for number, entry in enumerate(digests_and_looks) if entry is None]
    if unread:
        read = ordered_map(
            lambda i: _look(files[unread[i]].path, appearances),
            len(unread),
            workers=workers,
            progress=progress,
            title="reading files",
        )
        for number, look in zip(unread, read, strict=True):
            digests_and_looks[number] = look
        index.remember(cache_dir, key, _entries(files, digests_and_looks, started_ns))
    digests = np.zeros((len(files), DIGEST_BYTES), np.uint8)
    looks = np.zeros((len(files), APPEARANCE_BYTES), np.uint8) if appearances else None
    for number, known_file in enumerate(digests_and_looks):
        if known_file is not None and known_file[0]:
            digests[number] = np.frombuffer(known_file[0], np.uint8)
            if looks is not None and known_file[1]:
                looks[number] = np.frombuffer(known_file[1], np.uint8)
    return digests, looks


def of_manifest(root: str, files: Sequence[File]) -> np.ndarray:
    """Digest of the name below a folder, the size and the time of the last change of every file; none is opened.

    Args:
        root: the folder.
        files: N files; the names of those elsewhere count whole.

    Returns:
        uint8 ``[N, 16]``.
    """
    above = root.rstrip(os.sep) + os.sep
    digests = np.zeros((len(files), DIGEST_BYTES), np.uint8)
    for number, file in enumerate(files):
        name = file.path.removeprefix(above).encode("utf-8", "surrogateescape")
        line = b"%s\0%d %d" % (name, file.size, file.mtime_ns)
        digests[number] = np.frombuffer(digest_of(line), np.uint8)
    return digests


def _look(path: str, appearances: bool) -> _Known:
    """Digest and appearance; empty where the file cannot be read."""
    try:
        data = read_regular(path)
    except OSError:
        return b"", b""
    digest = hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
    return digest, (appearance(data) or b"") if appearances else None


def _entries(
    files: Sequence[File], digests_and_looks: Sequence[_Known | None], started_ns: int
) -> dict[str, list[object]]:
    entries: dict[str, list[object]] = {}
    for file, entry in zip(files, digests_and_looks, strict=True):
        if entry is None or not entry[0] or max(file.mtime_ns, file.ctime_ns) >= started_ns - RACY_NS:
            continue
        look = None if entry[1] is None else entry[1].hex()
        entries[file.path] = [*file[1:], entry[0].hex(), look]
    return entries


def _remembered(entry: object, file: File, appearances: bool) -> _Known | None:
    """An entry of the index, if it is one, of this file as it is now."""
    if not (isinstance(entry, list) and len(entry) == 6 and entry[:4] == list(file[1:])):
        return None
    digest, look = entry[4:]
    try:
        known = bytes.fromhex(digest), None if look is None else bytes.fromhex(look)
    except (TypeError, ValueError):
        return None
    if len(known[0]) != DIGEST_BYTES or (known[1] and len(known[1]) != APPEARANCE_BYTES):
        return None
    return None if appearances and known[1] is None else known
