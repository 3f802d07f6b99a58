"""Data sets of the library ``datasets``, ``hf:NAME``: from the Hugging Face hub, or a folder on this machine."""

import os
from collections.abc import Mapping
from typing import Any

from finetune_jax.data import records
from finetune_jax.data.examples import Source, fingerprint_of
from finetune_jax.data.image_files import Reading
from finetune_jax.data.records import Records
from finetune_jax.errors import UserError, readable

_SAVED = ("dataset_dict.json", "state.json")


def read(dataset: str, *, open_classes: bool, reading: Reading) -> Source:
    """Opens a data set with a column of images and one of classes; decodes nothing, and runs no code of its authors.

    Args:
        dataset: ``hf:NAME``, ``hf:NAME:CONFIG``, or ``hf:FOLDER``, which ``save_to_disk`` wrote or which
            ``load_dataset`` reads.
        open_classes: see ``records.source``.
        reading: how images are read.

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
    for given, part in parts.items():
        split = records.split_of(given, open_classes)
        image, label = _columns(part, datasets, shown)
        feature = part.features[label]
        if isinstance(feature, datasets.ClassLabel):
            class_names = list(feature.names)
        if split in splits:
            notes.append(f"{readable(given)}: not used, as there is another {split} split")
            continue
        splits[split] = _records(part, image, label, given, class_names, datasets)
    return records.source(
        dataset, splits, reading, class_names=class_names, open_classes=open_classes, notes=notes
    )


def _columns(part: Any, datasets: Any, shown: str) -> tuple[str, str]:
    """Names of the columns of images and of classes."""
    features = part.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    known = ("label", "labels", "class", "target", "category", "fine_label")
    labels = classes or [name for name in known if name in features]
    if not images or not labels:
        raise UserError(
            f"--dataset={shown} needs a column of images and one of classes, but has {', '.join(map(str, features))}"
        )
    return images[0], labels[0]


def _records(
    part: Any, image: str, label: str, given: str, class_names: list[str] | None, datasets: Any
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

    numbers = list(encoded[label])
    labels = [class_names[n] if class_names is not None else str(n) for n in numbers]
    # Its own fingerprint follows everything that was done to the table.
    stamp = fingerprint_of("datasets", str(getattr(part, "_fingerprint", "")), given)
    return Records([f"{given}[{index}]" for index in range(len(numbers))], labels, load, stamp)
