"""Data sets of the library ``datasets``, ``hf:NAME``: from the Hugging Face hub, or a folder on this machine."""

import os
from collections.abc import Mapping
from typing import Any

from finetune_jax.data import records
from finetune_jax.data.examples import Source, fingerprint_of
from finetune_jax.data.image_files import Reading
from finetune_jax.data.record_labels import Label, Wanted
from finetune_jax.data.records import Records
from finetune_jax.errors import UserError, readable

_SAVED = ("dataset_dict.json", "state.json")


def read(dataset: str, *, open_classes: bool, reading: Reading, asked: Wanted) -> Source:
    """Opens a data set with a column of images and columns of labels; decodes nothing, and runs no code of its authors.

    Args:
        dataset: ``hf:NAME``, ``hf:NAME:CONFIG``, or ``hf:FOLDER``, which ``save_to_disk`` wrote or which
            ``load_dataset`` reads.
        open_classes: see ``records.source``.
        reading: how images are read.
        asked: names of the columns.

    Raises:
        UserError: the library is missing, there is no such data set, or it has no such columns.
    """
    shown = readable(dataset)
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f'--dataset={shown} needs the library datasets: pip install "finetune-jax[datasets]"'
        ) from error
    name = dataset.partition(":")[2]
    folder = os.path.expanduser(name)
    try:
        if any(os.path.exists(os.path.join(folder, file)) for file in _SAVED):
            loaded: Any = datasets.load_from_disk(folder)
        elif os.path.isdir(folder):
            loaded = datasets.load_dataset(folder)
        else:
            repository, _, config = name.partition(":")
            loaded = datasets.load_dataset(repository, config or None)
    # A dozen kinds: no network, no such name, a damaged file …
    except Exception as error:
        raise UserError(f"--dataset={shown} cannot be opened: {readable(error)}") from error
    parts: Mapping[str, Any] = loaded if isinstance(loaded, Mapping) else {"train": loaded}
    splits: dict[str, Records] = {}
    class_names: list[str] | None = None
    notes = []
    for name_of_part, part in parts.items():
        split = records.split_of(name_of_part, open_classes)
        image, labels = _columns(part, datasets, shown, asked)
        if len(labels) == 1 and (named := _names(part.features[labels[0]], datasets)):
            class_names = named
        if split in splits:
            notes.append(f"{readable(name_of_part)}: not used, as there is another {split} split")
            continue
        splits[split] = _records(part, image, labels, name_of_part, class_names, datasets)
    return records.source(
        dataset, splits, reading, asked, class_names=class_names, open_classes=open_classes, notes=notes
    )


def _columns(part: Any, datasets: Any, shown: str, asked: Wanted) -> tuple[str, tuple[str, ...]]:
    """Names of the columns of images and of labels."""
    features = part.features
    there = ", ".join(map(str, features))
    for name in (*([asked.image] if asked.image else []), *asked.labels):
        if name not in features:
            raise UserError(f"--columns: --dataset={shown} has no column {readable(name)}, only {there}")
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    single = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    several = [name for name, feature in features.items() if _names(feature, datasets)]
    known = ("label", "labels", "class", "target", "category", "fine_label")
    labels = single or several or [name for name in known if name in features]
    if not (asked.image or images) or not (asked.labels or labels):
        raise UserError(
            f"--dataset={shown} needs a column of images and one of classes, but has {there}; name them with "
            "--columns=image=NAME,label=NAME"
        )
    return asked.image or images[0], asked.labels or (labels[0],)


def _names(feature: Any, datasets: Any) -> list[str] | None:
    """The names of a feature of classes, or of lists of these."""
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else None


def _records(
    part: Any,
    image: str,
    labels: tuple[str, ...],
    name_of_part: str,
    class_names: list[str] | None,
    datasets: Any,
) -> Records:
    encoded = part.cast_column(image, datasets.Image(decode=False))

    def load(index: int) -> bytes:
        value = encoded[index][image]
        if value.get("bytes"):
            return bytes(value["bytes"])
        if value.get("path"):
            with open(value["path"], "rb") as file:
                return file.read()
        raise ValueError("there is no image")

    def label(values: Any) -> Label:
        """Of one image; classes by their names."""
        if class_names is not None and len(labels) == 1:
            one = isinstance(values, int)
            return class_names[values] if one else tuple(class_names[number] for number in values or ())
        understood = records.label_of(values)
        return (str(values) if values is not None else ()) if understood is None else understood

    columns = [list(encoded[name]) for name in labels]
    of_images = columns[0] if len(labels) == 1 else list(zip(*columns, strict=True))
    # Its own fingerprint follows everything that was done to the table.
    stamp = fingerprint_of("datasets", str(getattr(part, "_fingerprint", "")), name_of_part)
    names = [f"{name_of_part}[{index}]" for index in range(len(of_images))]
    return Records(names, [label(values) for values in of_images], load, stamp)
