"""Tar shards in the layout of webdataset, ``webdataset:PATH``: files of one name, up to its first dot, are a sample.

``0001.jpg`` is the image, ``0001.cls`` or ``0001.txt`` its class, a number or a name, or ``label`` in ``0001.json``,
which may also be a list of names or numbers. ``--columns=label=NAME`` takes another ending or key.
The shards are read in place, in any order; nothing is unpacked.
"""

import glob
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finetune_jax.data import records
from finetune_jax.data.examples import Source, fingerprint_of
from finetune_jax.data.formats import suffixes
from finetune_jax.data.image_files import Reading
from finetune_jax.data.record_labels import Label, Wanted
from finetune_jax.data.records import Records
from finetune_jax.errors import DAMAGE, UserError, readable

_LABELS = ("cls", "label", "txt", "json")
_IN_JSON = ("label", "class", "cls", "class_name", "category", "labels", "classes", "tags")
_LONGEST_LABEL = 1 << 16
_DAMAGED: tuple[type[Exception], ...] = (OSError, tarfile.TarError, *DAMAGE)


class _Place(NamedTuple):
    """Where an image lies."""

    shard: str
    start: int
    size: int


def read(dataset: str, *, open_classes: bool, reading: Reading, asked: Wanted) -> Source:
    """Finds the images of all shards; decodes nothing.

    Args:
        dataset: ``webdataset:PATH``, a folder, a file, or a pattern such as ``shards/train-*.tar``. A shard's split is
            in its name, or in that of its folder.
        open_classes: see ``records.source``.
        reading: how images are read.
        asked: ending of the images, and ending or keys in JSON of the labels.

    Raises:
        UserError: there are no shards, one is damaged or compressed, or a sample has no label.
    """
    pattern = os.path.expanduser(dataset.partition(":")[2])
    shards = _shards(pattern, readable(dataset))
    samples_by_split: dict[str, list[tuple[str, Label, _Place]]] = {}
    for shard in shards:
        split = _split_of(shard, pattern, open_classes)
        samples_by_split.setdefault(split, []).extend(_samples(shard, readable(dataset), asked))
    status = [os.stat(shard) for shard in shards]
    stamps = [
        f"{name} {s.st_size} {s.st_mtime_ns} {s.st_ino}" for name, s in zip(shards, status, strict=True)
    ]
    manifest = records.manifest_of(shards)
    splits = {
        split: Records(
            names=[name for name, _, _ in samples],
            labels=[label for _, label, _ in samples],
            load=_loader([place for _, _, place in samples]),
            stamp=fingerprint_of("shards", split, *stamps),
            manifest=manifest,
        )
        for split, samples in samples_by_split.items()
    }
    return records.source(
        dataset, splits, reading, asked, open_classes=open_classes, notes=[f"{len(shards)} tar shards"]
    )


def _split_of(shard: str, root: str, open_classes: bool) -> str:
    """By the shard's name, else by that of its folder within the data set."""
    split = records.split_of(os.path.basename(shard).split(".")[0], open_classes)
    inside = os.path.relpath(os.path.dirname(shard), root) if os.path.isdir(root) else "."
    return (
        records.split_of(os.path.basename(inside), open_classes)
        if split == "train" and inside != "."
        else split
    )


def _shards(pattern: str, shown: str) -> list[str]:
    if os.path.isdir(pattern):
        paths = sorted(map(str, Path(pattern).rglob("*.tar")))
    else:
        paths = sorted(glob.glob(pattern, recursive=True))
    if not paths:
        raise UserError(f"--dataset={shown}: there is no .tar file")
    for name in paths:
        if not name.endswith(".tar"):
            raise UserError(
                f"--dataset={shown}: {readable(name)} is no plain .tar file, which alone can be read in any order; "
                "unpack it (gunzip)"
            )
    return paths


def _samples(shard: str, shown: str, asked: Wanted) -> list[tuple[str, Label, _Place]]:
    """Name, label and place of every image of a shard."""
    images: dict[str, _Place] = {}
    labels: dict[str, Label] = {}
    known = [f".{asked.image.lower()}"] if asked.image else suffixes()
    endings = [name for name in asked.labels if name in _LABELS]
    keys = asked.labels if asked.labels and not endings else ()
    kinds = endings or (["json"] if keys else _LABELS)
    name = readable(os.path.basename(shard))
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, base = os.path.split(member.name)
                key, _, kind = base.partition(".")
                key, kind = os.path.join(folder, key), kind.lower()
                if f".{kind}" in known:
                    images[key] = _Place(shard, member.offset_data, member.size)
                elif kind in kinds and member.size <= _LONGEST_LABEL:
                    opened = archive.extractfile(member)
                    assert opened is not None
                    label = _label(opened.read(), kind, keys)
                    if label is not None and (kind != "txt" or key not in labels):
                        labels[key] = label
    except _DAMAGED as error:
        raise UserError(f"--dataset={shown}: the shard {name} is damaged ({readable(error)})") from error
    missing = [key for key in images if key not in labels]
    if missing:
        raise UserError(
            f"--dataset={shown}: {len(missing)} of {len(images)} images in {name} have no label, e.g. "
            f"{readable(missing[0])}; "
            + (
                f"--columns=label={readable(','.join(asked.labels))} is in no file of its name"
                if asked.labels
                else "put a .cls file of the same name beside each"
            )
        )
    return [(f"{name}/{readable(key)}", labels[key], place) for key, place in images.items()]


def _label(content: bytes, kind: str, keys: Sequence[str]) -> Label | None:
    if kind != "json":
        return content.decode().strip() or None
    values: Any = json.loads(content)
    if isinstance(values, dict) and len(keys) > 1:
        values = [values.get(key) for key in keys]
    elif isinstance(values, dict):
        values = next((values[key] for key in keys or _IN_JSON if key in values), None)
    return records.label_of(values)


def _loader(places: Sequence[_Place]) -> records.Load:
    def load(index: int) -> bytes:
        shard, start, size = places[index]
        with open(shard, "rb") as file:
            data = os.pread(file.fileno(), size, start)
        if len(data) != size:
            raise ValueError(f"{os.path.basename(shard)} is cut short")
        return data

    return load
