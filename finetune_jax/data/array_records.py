"""ArrayRecord files of ``tf.train.Example``, ``arrayrecord:PATH``; prepared TFDS data sets are ``tfds:NAME``."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_jax.data import records
from finetune_jax.data.examples import Source, fingerprint_of
from finetune_jax.data.image_files import Reading
from finetune_jax.data.parallel import ordered_map
from finetune_jax.data.record_labels import Wanted
from finetune_jax.data.records import Records
from finetune_jax.errors import UserError, readable

_IMAGES = ("image", "image/encoded", "jpg", "jpeg", "png")
_LABELS = ("label_name", "image/class/text", "label", "image/class/label", "class", "cls", "labels")
_SUFFIXES = (".array_record", ".arrayrecord", ".ar")


def read(dataset: str, *, open_classes: bool, reading: Reading, asked: Wanted) -> Source:
    """Reads the labels of all records; decodes nothing.

    Args:
        dataset: ``arrayrecord:PATH``, a folder, a file, or a pattern. A file's split is in its name.
        open_classes: see ``records.source``.
        reading: how images are read.
        asked: names of the features.

    Raises:
        UserError: there are no such files, one is damaged, or a record has no image or label.
    """
    shown = readable(dataset)
    files = _files(os.path.expanduser(dataset.partition(":")[2]), shown)
    by_split: dict[str, list[str]] = {}
    for file in files:
        name = os.path.basename(file)
        for suffix in _SUFFIXES:
            name = name.replace(suffix, "")
        by_split.setdefault(records.split_of(name, open_classes), []).append(file)
    splits = {split: _records(paths, split, shown, reading, asked) for split, paths in by_split.items()}
    return records.source(dataset, splits, reading, asked, open_classes=open_classes)


def _files(pattern: str, shown: str) -> list[str]:
    if os.path.isdir(pattern):
        paths = sorted(
            str(path) for path in Path(pattern).rglob("*") if any(s in path.name for s in _SUFFIXES)
        )
    else:
        paths = sorted(glob.glob(pattern, recursive=True))
    if not paths:
        raise UserError(f"--dataset={shown}: there is no file that ends in .array_record")
    return paths


def _records(files: Sequence[str], split: str, shown: str, reading: Reading, asked: Wanted) -> Records:
    from grain.sources import ArrayRecordDataSource

    try:
        opened: Any = ArrayRecordDataSource(list(files))
        count = len(opened)
    # Its reader has exceptions of its own.
    except Exception as error:
        raise UserError(
            f"--dataset={shown}: {readable(files[0])} cannot be read ({readable(error)})"
        ) from error

    image_names = (asked.image,) if asked.image else _IMAGES
    label_names = asked.labels or _LABELS

    def load(index: int) -> bytes:
        image = _values(opened[index], image_names)
        if not image or not isinstance(image[0], bytes):
            raise ValueError("it has no encoded image")
        return image[0]

    def label(index: int) -> list[Any]:
        try:
            record = opened[index]
            label_values: Sequence[Any] | None = _values(record, label_names)
            if len(asked.labels) > 1:
                columns = [_values(record, [name]) for name in label_names]
                label_values = [column[0] for column in columns if column and len(column) == 1]
                label_values = label_values if len(label_values) == len(columns) else None
            if label_values is None or _values(record, image_names) is None:
                raise ValueError(f"it has the features {', '.join(sorted(_features(record))) or 'none'}")
        except Exception as error:
            raise UserError(
                f"--dataset={shown}: record {index} of {split} is no tf.train.Example with an image "
                f"({', '.join(image_names)}) and a label ({', '.join(label_names)}): {readable(error)}"
            ) from error
        return [v.decode(errors="backslashreplace") if isinstance(v, bytes) else v for v in label_values]

    values_by_record = list(
        ordered_map(label, count, workers=reading.workers, progress=reading.progress, title="labels")
    )
    # Where every image has a single value it is a class or a number, else a list of them.
    single = len(asked.labels) < 2 and all(len(values) == 1 for values in values_by_record)
    labels = [records.label_of(values[0] if single else values) or () for values in values_by_record]
    status = [os.stat(file) for file in files]
    stamps = [f"{name} {s.st_size} {s.st_mtime_ns} {s.st_ino}" for name, s in zip(files, status, strict=True)]
    names = [f"{split}[{index}]" for index in range(count)]
    stamp = fingerprint_of("array_record", split, *stamps)
    return Records(names, labels, load, stamp, records.manifest_of(files))


def _features(record: bytes) -> Any:
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(record).features.feature


def _values(record: bytes, names: Sequence[str]) -> list[bytes] | list[int] | list[float] | None:
    """The values of the first of some features that is there; None where none is."""
    features = _features(record)
    for name in names:
        kinds = ("bytes_list", "int64_list", "float_list") if name in features else ()
        for kind in kinds:
            if values := list(getattr(features[name], kind).value):
                return values
    return [] if any(name in features for name in names) else None
