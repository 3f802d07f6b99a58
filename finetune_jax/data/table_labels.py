"""The labels of a table: one class per image, any number of classes, or numbers; and which of these they are."""

import fnmatch
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from finetune_jax.data import folder_layout
from finetune_jax.errors import UserError, readable

DELIMITERS = ("|", ";")
"""What is guessed to stand between labels."""

_TRUE, _FALSE = ("1", "1.0", "true", "yes", "y", "t"), ("0", "0.0", "false", "no", "n", "f", "-1", "")
_MISSING = ("", "na", "n/a", "nan", "none", "null", "?", "-")
_UNLABELLED = ("", "na", "n/a", "nan", "null")


class Labels(NamedTuple):
    """What the label columns say.

    Attributes:
        task: ``classification``, ``multilabel`` or ``regression``.
        class_names: of the classes, or of the numbers.
        labels: class numbers, int32 ``[N]`` by split; of other tasks the class by which splits that are made are
            balanced.
        targets: float32 ``[N, C]`` by split, 0 and 1 or numbers; None for classes.
        notes: how the labels were understood.
    """

    task: str
    class_names: tuple[str, ...]
    labels: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray] | None
    notes: tuple[str, ...]


class Cells(NamedTuple):
    """The label cells of a split.

    Attributes:
        rows: their numbers in the table.
        values: text of each label column.
    """

    rows: Sequence[int]
    values: Sequence[tuple[str, ...]]


def cell_of(value: object) -> str:
    """A value of a typed table as the text of a cell: nothing for None, lists with the first of `DELIMITERS` between.

    >>> cell_of(None), cell_of(2.5), cell_of(["cat", "dog"])
    ('', '2.5', 'cat|dog')
    """
    if isinstance(value, list):
        return DELIMITERS[0].join(map(str, value))
    return "" if value is None else str(value)


def chosen_columns(pattern: str, header: Sequence[str], taken: Sequence[str]) -> list[str]:
    """The columns that ``label=PATTERN`` means: that of this name, or all of other roles' names left out that match.

    >>> chosen_columns("is_*", ["file", "is_cat", "is_dog"], ["file"])
    ['is_cat', 'is_dog']
    """
    if pattern in header:
        return [pattern]
    return [name for name in header if name not in taken and fnmatch.fnmatchcase(name, pattern)]


def read(
    cells: Mapping[str, Cells],
    columns: Sequence[str],
    *,
    task: str,
    delimiter: str,
    open_classes: bool,
    shown: str,
) -> Labels:
    """Understand the label cells of a table.

    Args:
        cells: by split, ``train`` among them.
        columns: names of the label columns.
        task: as of ``--task``; ``auto`` finds out.
        delimiter: between labels of one cell; empty is guessed.
        open_classes: whether other splits may have classes that training has not.
        shown: name of the table, for messages.

    Raises:
        UserError: labels are missing, of mixed kinds, or do not go with the task; names the row.
    """
    name = f"--dataset=csv:{shown}"
    guessed, inferred = delimiter, task == "auto"
    if inferred:
        task, guessed = _inferred(cells, columns, delimiter, name)
    if task == "multilabel":
        if len(columns) > 1:
            return _flags(cells, columns, name)
        if inferred:
            _refuse_missing(
                cells, columns[0], name, ", or give --task=multilabel if it has none of the classes"
            )
        return _lists(cells, guessed or _guess(cells) or DELIMITERS[0], name)
    if task == "regression":
        return _numbers(cells, columns, name)
    if len(columns) > 1:
        raise UserError(
            f"{name}: --task={task} takes one label column, not {', '.join(map(readable, columns))}; several are for "
            "--task=multilabel or regression"
        )
    _refuse_missing(cells, columns[0], name, missing=_UNLABELLED if inferred else ("",))
    return _classes(cells, open_classes, shown)


def _inferred(
    cells: Mapping[str, Cells], columns: Sequence[str], delimiter: str, name: str
) -> tuple[str, str]:
    """Task and delimiter by the cells."""
    words: tuple[int, str] | None = None
    number: tuple[int, str] | None = None
    fraction = False
    yes_or_no = len(columns) > 1
    for row, values in _every(cells):
        for value in values:
            if value.lower() in _MISSING:
                continue
            parsed = _number(value)
            if parsed is None:
                words = words or (row, value)
            else:
                number = number or (row, value)
                fraction = fraction or parsed != int(parsed)
        yes_or_no = yes_or_no and all(value.lower() in _TRUE + _FALSE for value in values)
    if len(columns) > 1:
        if yes_or_no:
            return "multilabel", ""
        if words is None:
            return "regression", ""
        raise UserError(
            f"{name}: row {words[0]} has the label {readable(words[1])}; several label columns hold 0 or 1 "
            "(multilabel) or numbers (regression)"
        )
    if delimiter or _guess(cells):
        return "multilabel", delimiter or _guess(cells)
    if words is not None and number is not None:
        raise UserError(
            f"{name}: the label of row {number[0]} is the number {readable(number[1])} and that of row {words[0]} "
            f"{readable(words[1])}; correct the labels, or give --task=classification, which takes all as names"
        )
    return ("regression" if fraction else "classification"), ""


def _guess(cells: Mapping[str, Cells]) -> str:
    """The delimiter of lists of labels; empty where nothing looks like lists."""
    distinct = {values[0] for _, values in _every(cells)}
    for delimiter in DELIMITERS:
        lists = [value for value in distinct if delimiter in value]
        counts = Counter(part for value in distinct for part in _parts(value, delimiter))
        # Parts of a list come again in other lists; those of a name that has such a letter hardly do.
        if lists and any(counts[part] > 1 for value in lists for part in _parts(value, delimiter)):
            return delimiter
    return ""


def _refuse_missing(
    cells: Mapping[str, Cells],
    column: str,
    name: str,
    advice: str = "",
    missing: Sequence[str] = _UNLABELLED,
) -> None:
    for row, values in _every(cells):
        if values[0].lower() in missing:
            text = f" but {readable(values[0])}" if values[0] else ""
            raise UserError(
                f"{name}: row {row} has no label{text} (column {readable(column)}); correct it{advice}"
            )


def _classes(cells: Mapping[str, Cells], open_classes: bool, shown: str) -> Labels:
    labels = {split: [values[0] for values in part.values] for split, part in cells.items()}
    class_names, notes = _class_names(labels, open_classes, shown)
    numbers = {label: number for number, label in enumerate(class_names)}
    arrays = {
        split: np.array([numbers[label] for label in of_split], np.int32)
        for split, of_split in labels.items()
    }
    return Labels("classification", tuple(map(readable, class_names)), arrays, None, notes)


def _lists(cells: Mapping[str, Cells], delimiter: str, name: str) -> Labels:
    """Several labels in one cell; an empty cell is an image of none of the classes."""
    parts = {split: [_parts(values[0], delimiter) for values in part.values] for split, part in cells.items()}
    known = sorted_names({label for row in parts["train"] for label in row})
    for split, rows in parts.items():
        for number, labels in zip(cells[split].rows, rows, strict=True):
            unknown = [label for label in labels if label not in known]
            if unknown:
                raise UserError(
                    f"{name}: row {number} of the {split} split has the label {readable(unknown[0])}, which no "
                    "training image has"
                )
    numbers = {label: number for number, label in enumerate(known)}
    targets = {}
    for split, rows in parts.items():
        targets[split] = np.zeros((len(rows), len(known)), np.float32)
        for place, labels in enumerate(rows):
            targets[split][place, [numbers[label] for label in labels]] = 1
    note = f"labels are lists of {len(known)} classes, divided by {delimiter}"
    return several(tuple(map(readable, known)), targets, note, name)


def _flags(cells: Mapping[str, Cells], columns: Sequence[str], name: str) -> Labels:
    """One column per class with 0 or 1."""
    targets = {}
    for split, part in cells.items():
        targets[split] = np.zeros((len(part.rows), len(columns)), np.float32)
        for place, (row, values) in enumerate(zip(part.rows, part.values, strict=True)):
            for column, value in enumerate(values):
                if value.lower() in _TRUE:
                    targets[split][place, column] = 1
                elif value.lower() not in _FALSE:
                    raise UserError(
                        f"{name}: row {row} has {readable(value)} in the column {readable(columns[column])}; "
                        "--task=multilabel takes 0 or 1 there"
                    )
    note = f"labels are the columns of {len(columns)} classes"
    return several(tuple(map(readable, columns)), targets, note, name)


def several(class_names: tuple[str, ...], targets: Mapping[str, np.ndarray], note: str, name: str) -> Labels:
    """Labels of several classes.

    Args:
        class_names: C of them.
        targets: 0 and 1, float32 ``[N, C]`` by split.
        note: how they were understood.
        name: of the data set, for messages.

    Raises:
        UserError: a class has no training image.
    """
    absent = [
        class_name
        for class_name, images in zip(class_names, targets["train"].sum(0), strict=True)
        if not images
    ]
    if absent or not class_names:
        raise UserError(
            f"{name}: no training image has the label {', '.join(absent[:5])}; leave it out or add images"
            if absent
            else f"{name}: no training image has a label"
        )
    none = sum(int((of_split.sum(1) == 0).sum()) for of_split in targets.values())
    notes = (note, *([f"{none} images have none of the classes"] if none else []))
    # Splits that are made shall have images of every class: each image stands for its rarest.
    counts = np.sum([of_split.sum(0) for of_split in targets.values()], axis=0)
    order = np.argsort(counts, kind="stable")
    labels = {
        split: order[np.argmax(of_split[:, order] > 0, axis=1)].astype(np.int32)
        for split, of_split in targets.items()
    }
    return Labels("multilabel", class_names, labels, targets, notes)


def _numbers(cells: Mapping[str, Cells], columns: Sequence[str], name: str) -> Labels:
    targets = {}
    for split, part in cells.items():
        targets[split] = np.zeros((len(part.rows), len(columns)), np.float32)
        for place, (row, values) in enumerate(zip(part.rows, part.values, strict=True)):
            for column, value in enumerate(values):
                number = _number(value)
                if number is None:
                    what = f"no label but {readable(value)}" if value else "no label"
                    raise UserError(
                        f"{name}: row {row} has {what} in the column {readable(columns[column])}, and "
                        "--task=regression needs a number"
                    )
                targets[split][place, column] = number
    labels = {split: np.zeros(len(of_split), np.int32) for split, of_split in targets.items()}
    return Labels("regression", tuple(map(readable, columns)), labels, targets, ())


def _every(cells: Mapping[str, Cells]) -> list[tuple[int, tuple[str, ...]]]:
    return [pair for part in cells.values() for pair in zip(part.rows, part.values, strict=True)]


def _parts(value: str, delimiter: str) -> list[str]:
    parts = [part.strip() for part in value.split(delimiter)]
    return [part for part in dict.fromkeys(parts) if part.lower() not in _UNLABELLED]


def _number(value: str) -> float | None:
    """The finite number that a text is."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _class_names(
    labels: Mapping[str, Sequence[str]], open_classes: bool, shown: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All class names, those of training first, and notes on what differs between the splits."""
    known = sorted_names(set(labels["train"]))
    if len(known) < 2:
        raise UserError(
            f"--dataset=csv:{shown} has a single training class ({readable(known[0])}): at least two are needed"
        )
    notes = []
    for split, names in labels.items():
        unknown, missing = sorted_names(set(names) - set(known)), sorted_names(set(known) - set(names))
        if open_classes:
            known += unknown
        elif unknown:
            raise UserError(
                f"--dataset=csv:{shown}: the {split} split has classes that train has not "
                f"({folder_layout.some(unknown)})"
            )
        elif missing:
            notes.append(f"{split}: no images of {len(missing)} classes ({folder_layout.some(missing)})")
    return tuple(known), tuple(notes)


def sorted_names(names: set[str]) -> list[str]:
    """Numbers by their value, anything else by its letters."""
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
