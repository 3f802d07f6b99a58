"""Folders of tiny pictures, each of a colour of its own."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from finetune_jax.data.examples import Source

SPLITS = ("train", "validation", "test")


def colour(number: int) -> tuple[int, int, int]:
    return (7 * number % 256, number % 256, 255 - number % 256)


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), colour(number)).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, files: Sequence[str]) -> str:
    """Writes pictures 0, 1, … at these paths; returns the --dataset that names them."""
    for number, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return f"folder:{root}"


def assert_partition(source: Source, total: int) -> None:
    names = [name for split in SPLITS for name in source.splits[split].names]
    assert len(names) == len(set(names)) == total


def write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    """An archive of files by their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
