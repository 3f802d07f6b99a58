"""The labels of records, such as those of tar shards: a class, several classes, or numbers; and what is wanted of them.

Tables have labels of their own kind, see ``table_labels``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from finetune_jax.data import folder_layout, table_labels
from finetune_jax.data.table_labels import DELIMITERS, Labels
from finetune_jax.errors import UserError, readable

Label = str | tuple[str, ...] | tuple[int, ...] | tuple[float, ...]
"""A class or a text; classes; whole numbers, which may be numbers of classes, flags or values; numbers."""

_ROLES = ("image", "label")


class Wanted(NamedTuple):
    """Where a reader finds images and labels, and what these are.

    Attributes:
        image: name of the field of images; empty is guessed.
        labels: names of the fields of labels; empty is guessed.
        task: as of ``--task``; ``auto`` finds out by the labels.
        delimiter: between several labels in a text; empty is guessed.
    """

    image: str = ""
    labels: tuple[str, ...] = ()
    task: str = "auto"
    delimiter: str = ""


def wanted(columns: Sequence[str], task: str, delimiter: str, dataset: str) -> Wanted:
    """What ``--columns`` asks for.

    Args:
        columns: ``image=NAME`` and ``label=NAME``.
        task: as of ``--task``.
        delimiter: of ``--label_delimiter``.
        dataset: for messages.

    Raises:
        UserError: a column has another role.

    >>> wanted(["label=x", "label=y"], "regression", "", "webdataset:shards").labels
    ('x', 'y')
    """
    image, labels = "", []
    for text in columns:
        role, separator, name = text.partition("=")
        if role not in _ROLES or not separator or not name:
            raise UserError(
                f"--columns={readable(text)}: of --dataset={readable(dataset)} give image=NAME or label=NAME; other "
                "roles are for tables, csv:FILE"
            )
        if role == "image":
            image = name
        else:
            labels.append(name)
    return Wanted(image, tuple(labels), task, delimiter)


def understand(
    labels: Mapping[str, Sequence[Label]],
    asked: Wanted,
    *,
    dataset: str,
    class_names: Sequence[str] | None = None,
) -> Labels | None:
    """Labels by split, where they are not one class per image.

    ``auto`` takes lists of classes for ``multilabel`` and numbers with fractions, or several of them, for
    ``regression``; rows of 0 and 1 are several classes too.

    Args:
        labels: of each image by split, ``train`` among them.
        asked: what they are.
        dataset: for messages.
        class_names: of all classes in order; None takes those of the training split, sorted.

    Returns:
        None where every image has one class, see :func:`classes`.

    Raises:
        UserError: labels are of mixed kinds, or do not go with the task; names the image by its place.
    """
    name = f"--dataset={readable(dataset)}"
    kinds = {_kind(label) for _, _, label in _every(labels)} - {""}
    task = _task_of(kinds, labels, asked, name) if asked.task == "auto" else asked.task
    if task == "multilabel":
        return _several(labels, asked, name, class_names)
    if task == "regression":
        return _numbers(labels, asked, name)
    return None


def classes(labels: Sequence[Label], split: str, dataset: str, task: str) -> list[str]:
    """The class of each image.

    Raises:
        UserError: one has several, or none.
    """
    image_classes = []
    for place, label in enumerate(labels):
        if isinstance(label, str):
            image_classes.append(label)
            continue
        if len(label) != 1:
            raise UserError(
                f"--dataset={readable(dataset)}: image {place} of {split} has {len(label)} labels, and "
                f"--task={task} takes one; give --task=multilabel"
            )
        image_classes.append(f"{label[0]:g}" if isinstance(label[0], float) else str(label[0]))
    return image_classes


def _task_of(kinds: set[str], labels: Mapping[str, Sequence[Label]], asked: Wanted, name: str) -> str:
    """The task that labels are for."""
    if kinds <= {"texts"}:
        return "classification"
    if "numbers" in kinds:
        words = next((label for _, _, label in _every(labels) if not np.isfinite(_values(label)).all()), None)
        if words is not None:
            raise UserError(
                f"{name}: some labels are numbers and one is {readable(str(words))}; name other ones with "
                "--columns=label=NAME"
            )
        return "regression"
    several_fields = kinds == {"integers"} and len(asked.labels) > 1
    return "regression" if several_fields and not _are_flags(labels) else "multilabel"


def _kind(label: Label) -> str:
    """What a label is; empty for one that says nothing."""
    if isinstance(label, str):
        return "texts"
    if not label:
        return ""
    if all(isinstance(part, str) for part in label):
        return "names"
    return "integers" if all(isinstance(part, int) for part in label) else "numbers"


def _are_flags(labels: Mapping[str, Sequence[Label]]) -> bool:
    """Whether labels are rows of 0 and 1 of one length."""
    rows = [label for _, _, label in _every(labels)]
    same = len(set(map(len, rows))) == 1 and len(rows[0]) > 1
    return same and not any(isinstance(row, str) or not set(row) <= {0, 1} for row in rows)


def _several(
    labels: Mapping[str, Sequence[Label]], asked: Wanted, name: str, class_names: Sequence[str] | None
) -> Labels:
    if _are_flags(labels):
        targets = {split: np.array(rows, np.float32) for split, rows in labels.items()}
        count = targets["train"].shape[1]
        columns = asked.labels if len(asked.labels) == count else tuple(map(str, range(count)))
        return table_labels.several(columns, targets, f"labels are rows of {count} classes", name)
    if odd := next((label for _, _, label in _every(labels) if _kind(label) == "numbers"), None):
        raise UserError(f"{name}: the label {readable(str(odd))} is a number; --task=multilabel takes names")
    delimiter = asked.delimiter or _guess(labels)
    lists = {split: [_parts(row, delimiter) for row in rows] for split, rows in labels.items()}
    known = list(class_names or table_labels.sorted_names({part for row in lists["train"] for part in row}))
    places = {label: place for place, label in enumerate(known)}
    targets = {}
    for split, rows in lists.items():
        targets[split] = np.zeros((len(rows), len(known)), np.float32)
        unknown = table_labels.sorted_names({part for row in rows for part in row} - set(known))
        if unknown:
            raise UserError(
                f"{name}: the {split} split has labels that no training image has ({folder_layout.some(unknown)})"
            )
        for number, row in enumerate(rows):
            targets[split][number, [places[part] for part in row]] = 1
    note = f"labels are lists of {len(known)} classes" + (f", divided by {delimiter}" if delimiter else "")
    return table_labels.several(tuple(map(readable, known)), targets, note, name)


def _numbers(labels: Mapping[str, Sequence[Label]], asked: Wanted, name: str) -> Labels:
    lengths = {len(_values(label)) for _, _, label in _every(labels)}
    count = max(lengths)
    targets = {}
    for split, rows in labels.items():
        values = np.array(
            [[*_values(row), *[math.nan] * (count - len(_values(row)))] for row in rows], np.float32
        )
        bad = np.flatnonzero(~np.isfinite(values).all(1))
        if not count or len(bad):
            place = int(bad[0]) if len(bad) else 0
            raise UserError(
                f"{name}: image {place} of {split} has the label {readable(str(rows[place]) or 'nothing')}, and "
                f"--task=regression needs {'a number' if count < 2 else f'{count} numbers'}"
            )
        targets[split] = values
    columns = asked.labels if len(asked.labels) == count else ("value",)
    if len(columns) != count:
        columns = tuple(f"value_{number + 1}" for number in range(count))
    places = {split: np.zeros(len(rows), np.int32) for split, rows in targets.items()}
    return Labels("regression", tuple(map(readable, columns)), places, targets, ())


def _values(label: Label) -> list[float]:
    """The numbers of a label; NaN for what is none."""
    values = []
    for part in (label,) if isinstance(label, str) else label:
        try:
            values.append(float(part))
        except ValueError:
            values.append(math.nan)
    return values


def _parts(label: Label, delimiter: str) -> list[str]:
    parts = [label] if isinstance(label, str) else list(map(str, label))
    if isinstance(label, str) and delimiter:
        parts = label.split(delimiter)
    return [part.strip() for part in dict.fromkeys(parts) if part.strip()]


def _guess(labels: Mapping[str, Sequence[Label]]) -> str:
    texts = [label for _, _, label in _every(labels) if isinstance(label, str)]
    return next((sign for sign in DELIMITERS if any(sign in text for text in texts)), "")


def _every(labels: Mapping[str, Sequence[Label]]) -> list[tuple[str, int, Label]]:
    return [(split, place, label) for split, rows in labels.items() for place, label in enumerate(rows)]
