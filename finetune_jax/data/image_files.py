"""Image files as examples: fingerprinted at once, decoded on demand."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune_jax.data import digests as content
from finetune_jax.data.decode import Decoding, UnreadableImage, read_image
from finetune_jax.data.examples import Examples, fingerprint_of_digests
from finetune_jax.data.file_tree import File
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
    ) -> None:
        self.decoding = decoding
        self.cache_dir = cache_dir
        self.workers = workers
        self.progress = progress
        self.looks = looks


def examples(
    root: str, listed: Mapping[str, Sequence[tuple[int, File]]], reading: Reading
) -> dict[str, Examples]:
    """The examples of each split.

    Args:
      root: That remembered digests are kept for.
      listed: Class number and file of each example, by split.
      reading: How files are read.
    """
    every_file = [file for members in listed.values() for _, file in members]
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
        )
        start = end
    return splits


def readable_root(folder: Path) -> str:
    """What the names of all images in a folder begin with."""
    return readable(folder, NAME_LENGTH) + os.sep


def _reader(paths: Sequence[str], names: Sequence[str], decoding: Decoding) -> Callable[[int], np.ndarray]:
    return lambda index: read_image(paths[index], names[index], decoding)


def _loader(paths: Sequence[str], names: Sequence[str]) -> Callable[[int], bytes]:
    def load(index: int) -> bytes:
        try:
            return read_regular(paths[index])
        except OSError as error:
            raise UnreadableImage(names[index], error.strerror or str(error)) from error

    return load
