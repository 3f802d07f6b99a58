"""Encoded images in the records of larger files, such as tar shards, as a source; read in any order, on demand."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_jax.data import folder_layout, index, record_labels
from finetune_jax.data.decode import UnreadableImage, decode_image
from finetune_jax.data.examples import (
    DIGEST_BYTES,
    Examples,
    Source,
    as_digests,
    digest_of,
    fingerprint_of,
    fingerprint_of_digests,
)
from finetune_jax.data.image_files import Reading
from finetune_jax.data.near_duplicates import APPEARANCE_BYTES, appearance
from finetune_jax.data.parallel import ordered_map
from finetune_jax.data.record_labels import Label, Wanted
from finetune_jax.data.split_rules import BY_CONTENT
from finetune_jax.data.table_labels import sorted_names
from finetune_jax.errors import UserError, readable

Load = Callable[[int], bytes]


@dataclass(frozen=True)
class Records:
    """The records of one split.

    Attributes:
        names: what a message calls each of the N images.
        labels: of each one, most often the name of its class.
        load: index to the encoded image; may be called from several threads. Raises OSError or ValueError.
        stamp: changes whenever the files do; empty where that is not known.
        manifest: digest of names, sizes and times of the files, which a copy has too; empty where there is none.
    """

    names: Sequence[str]
    labels: Sequence[Label]
    load: Load
    stamp: str = ""
    manifest: str = ""


def source(
    dataset: str,
    splits: Mapping[str, Records],
    reading: Reading,
    asked: Wanted,
    *,
    class_names: Sequence[str] | None = None,
    open_classes: bool = False,
    notes: Sequence[str] = (),
) -> Source:
    """The data set of some records.

    Args:
        dataset: its name, as on the command line.
        splits: ``train`` among them.
        reading: how images are read.
        asked: what the labels are.
        class_names: all of them in order; None takes the labels of the training split, sorted.
        open_classes: whether other splits may have classes that training has not (retrieval).
        notes: for the log.

    Raises:
        UserError: there is no training split, a class is missing, or labels do not go with the task.
    """
    shown = readable(dataset)
    if "train" not in splits:
        raise UserError(f"--dataset={shown} has no training split, only {', '.join(splits) or 'no images'}")
    by_split = {split: records.labels for split, records in splits.items()}
    understood = record_labels.understand(by_split, asked, dataset=dataset, class_names=class_names)
    if understood is not None:
        assert understood.targets is not None
        targets, labels = understood.targets, understood.labels
        examples = {
            split: _examples(records, labels[split], reading).with_targets(targets[split])
            for split, records in splits.items()
        }
        return Source(
            dataset,
            understood.class_names,
            examples,
            (*notes, *understood.notes),
            split_rule=BY_CONTENT,
            task=understood.task,
        )
    classes = {
        split: record_labels.classes(of_split, split, dataset, asked.task)
        for split, of_split in by_split.items()
    }
    names = list(class_names) if class_names is not None else sorted_names(set(classes["train"]))
    for split, of_split in classes.items():
        unknown = sorted_names(set(of_split) - set(names))
        if unknown and not open_classes:
            raise UserError(
                f"--dataset={shown}: the {split} split has classes that train has not ({folder_layout.some(unknown)})"
            )
        names += unknown
    numbers = {name: number for number, name in enumerate(names)}
    examples = {
        split: _examples(records, np.array([numbers[label] for label in classes[split]], np.int32), reading)
        for split, records in splits.items()
    }
    return Source(dataset, tuple(map(readable, names)), examples, tuple(notes), split_rule=BY_CONTENT)


def manifest_of(files: Sequence[str]) -> str:
    """Digest of the names, sizes and times of the last change of files that hold records."""
    status = [(os.path.basename(name), os.stat(name)) for name in files]
    return fingerprint_of("manifest", *[f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in status])


def split_of(name: str, open_classes: bool) -> str:
    """The split that the name of a file speaks of; ``train`` where it speaks of none."""
    known = folder_layout.RETRIEVAL_SPLIT_NAMES if open_classes else folder_layout.SPLIT_NAMES
    return folder_layout.split_of(name, known) or "train"


def label_of(value: Any) -> Label | None:
    """A value of JSON or of Python as a label; None for what can be none.

    >>> label_of(3), label_of(0.5), label_of(["a", "b"]), label_of([0, 1.5])
    ('3', (0.5,), ('a', 'b'), (0.0, 1.5))
    """
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, float):
        return (value,)
    if not isinstance(value, list | tuple):
        return None
    if all(isinstance(part, str) for part in value):
        return tuple(value)
    if all(isinstance(part, int) for part in value):
        return tuple(map(int, value))
    return tuple(map(float, value)) if all(isinstance(part, int | float) for part in value) else None


def _examples(records: Records, labels: np.ndarray, reading: Reading) -> Examples:
    names = list(records.names)

    def load(index: int) -> bytes:
        try:
            return records.load(index)
        except (OSError, ValueError) as error:
            raise UnreadableImage(names[index], getattr(error, "strerror", None) or str(error)) from error

    by_manifest = bool(records.manifest) and len(names) >= reading.manifest_from
    digests, looks = (_of_manifest(records), None) if by_manifest else _contents(records, load, reading)
    return Examples(
        labels=labels,
        names=names,
        read=lambda index: decode_image(load(index), names[index], reading.decoding),
        fingerprint=fingerprint_of_digests(digests),
        digests=digests,
        appearances=looks,
        encoded=load,
        place=records.stamp if by_manifest else "",
    )


def _of_manifest(records: Records) -> np.ndarray:
    lines = [f"{number} {name} {records.manifest}" for number, name in enumerate(records.names)]
    return as_digests([digest_of(line.encode("utf-8", "surrogateescape")) for line in lines])


def _contents(records: Records, load: Load, reading: Reading) -> tuple[np.ndarray, np.ndarray | None]:
    """Digest and appearance of every image, remembered for files that have not changed."""
    count = len(records.names)
    key = fingerprint_of("records", records.stamp, str(count))
    known = index.recall(reading.cache_dir, key) if records.stamp else {}
    digests, looks = known.get("digests", ""), known.get("looks", "")
    if len(digests) != 2 * DIGEST_BYTES * count or (
        reading.looks and len(looks) != 2 * APPEARANCE_BYTES * count
    ):

        def look(number: int) -> tuple[bytes, bytes]:
            try:
                data = load(number)
            except UnreadableImage:  # whoever decodes it will say why
                return bytes(DIGEST_BYTES), bytes(APPEARANCE_BYTES)
            seen = appearance(data) if reading.looks else None
            return digest_of(data), seen or bytes(APPEARANCE_BYTES)

        digests_and_looks = list(
            ordered_map(
                look, count, workers=reading.workers, progress=reading.progress, title="reading records"
            )
        )
        digests = b"".join(digest for digest, _ in digests_and_looks).hex()
        looks = b"".join(seen for _, seen in digests_and_looks).hex() if reading.looks else ""
        if records.stamp:
            index.remember(reading.cache_dir, key, {"digests": digests, "looks": looks})
    every_digest = as_digests([bytes.fromhex(digests)])
    if not reading.looks:
        return every_digest, None
    return every_digest, np.frombuffer(bytes.fromhex(looks), np.uint8).reshape(-1, APPEARANCE_BYTES)
