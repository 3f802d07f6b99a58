"""Image files as examples: fingerprinted at once, decoded on demand."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune_jax.data import digests as content
from finetune_jax.data import planes
from finetune_jax.data.decode import Decoding, UnreadableImage, read_image
from finetune_jax.data.examples import Examples, digest_of, fingerprint_of_digests
from finetune_jax.data.file_tree import File
from finetune_jax.data.formats import TIFF, suffix_of
from finetune_jax.data.regular_file import read_regular
from finetune_jax.errors import readable

NAME_LENGTH = 1000
"""Characters of a path in a message or table."""


class Reading:
    """How files are read."""

    def __init__(
        self,
        decoding: Decoding,
        cache_dir: str | os.PathLike[str] | None,
        workers: int | None,
        progress: bool,
        looks: bool,
        manifest_from: float = math.inf,
    ) -> None:
        self.decoding = decoding
        self.cache_dir = cache_dir
        self.workers = workers
        self.progress = progress
        self.looks = looks
        self.manifest_from = manifest_from


def examples(
    root: str, listed: Mapping[str, Sequence[tuple[int, File]]], reading: Reading
) -> dict[str, Examples]:
    """The examples of each split.

    Args:
      root: That remembered digests are kept for.
      listed: Class number and file of each example, by split.
      reading: How files are read.
    """
    if reading.decoding.pages == "images":
        return {split: _pages(part) for split, part in _whole(root, listed, reading).items()}
    return _whole(root, listed, reading)


def _whole(
    root: str, listed: Mapping[str, Sequence[tuple[int, File]]], reading: Reading
) -> dict[str, Examples]:
    """One example for each file."""
    every_file = [file for members in listed.values() for _, file in members]
    every_look: np.ndarray | None = None
    place = ""
    if len(every_file) >= reading.manifest_from:
        # Of a table, where most of its images lie.
        above = root if os.path.isdir(root) else os.path.commonpath([file.path for file in every_file])
        every_digest, place = content.of_manifest(above, every_file), os.path.realpath(above)
    else:
        every_digest, every_look = content.of_files(
            root,
            every_file,
            appearances=reading.looks,
            cache_dir=reading.cache_dir,
            workers=reading.workers,
            progress=reading.progress,
        )
    splits: dict[str, Examples] = {}
    start = 0
    for split, members in listed.items():
        paths = [file.path for _, file in members]
        names = [readable(path, NAME_LENGTH) for path in paths]
        end = start + len(members)
        splits[split] = Examples(
            labels=np.array([number for number, _ in members], np.int32),
            names=names,
            read=_reader(paths, names, reading.decoding),
            fingerprint=fingerprint_of_digests(every_digest[start:end]),
            digests=every_digest[start:end],
            appearances=None if every_look is None else every_look[start:end],
            encoded=_loader(paths, names),
            read_page=_page_reader(paths, names, reading.decoding),
            place=place,
        )
        start = end
    return splits


def readable_root(folder: Path) -> str:
    """What the names of all images in a folder begin with."""
    return readable(folder, NAME_LENGTH) + os.sep


def _reader(paths: Sequence[str], names: Sequence[str], decoding: Decoding) -> Callable[[int], np.ndarray]:
    return lambda index: read_image(paths[index], names[index], decoding)


def _page_reader(
    paths: Sequence[str], names: Sequence[str], decoding: Decoding
) -> Callable[[int, int], np.ndarray]:
    return lambda index, page: read_image(paths[index], names[index], decoding, page)


def _pages(files: Examples) -> Examples:
    """Each page of each file as an example; those of a file are a group, and look like nothing but themselves."""
    assert files.encoded is not None
    assert files.read_page is not None
    assert files.digests is not None
    counts = []
    for index, name in enumerate(files.names):
        try:
            counts.append(planes.pages_in(files.encoded(index), name) if suffix_of(name) in TIFF else 1)
        except UnreadableImage:
            counts.append(1)  # whoever decodes it will say why
    if max(counts, default=1) == 1:
        return files
    owners = np.repeat(np.arange(len(files)), counts)
    pages = np.concatenate([np.arange(count) for count in counts])
    several = np.repeat(counts, counts) > 1
    digests = files.digests[owners].copy()
    for place in np.flatnonzero(several):
        if digests[place].any():
            content = digest_of(digests[place].tobytes() + f"page {pages[place]}".encode())
            digests[place] = np.frombuffer(content, np.uint8)
    names = [
        f"{files.names[owner]}#{page + 1}" if several[place] else files.names[owner]
        for place, (owner, page) in enumerate(zip(owners.tolist(), pages.tolist(), strict=True))
    ]
    read, encoded = files.read_page, files.encoded
    return Examples(
        labels=files.labels[owners],
        names=names,
        read=lambda index: read(int(owners[index]), int(pages[index])),
        fingerprint=fingerprint_of_digests(digests),
        digests=digests,
        encoded=lambda index: encoded(int(owners[index])),
        groups=files.digests[owners],
        owners=owners,
        place=files.place,
    )


def _loader(paths: Sequence[str], names: Sequence[str]) -> Callable[[int], bytes]:
    def load(index: int) -> bytes:
        try:
            return read_regular(paths[index])
        except OSError as error:
            raise UnreadableImage(names[index], error.strerror or str(error)) from error

    return load
