"""Labels that a Python program hands over: classes, several classes of an image, or numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from finetune_jax.errors import UserError, readable


class Labels(NamedTuple):
    """What labels say.

    Attributes:
        task: ``classification``, ``multilabel`` or ``regression``.
        class_names: of the classes, or of the numbers.
        labels: class numbers, int32 ``[N]`` by split; of other tasks the class by which splits that are made are
            balanced.
        targets: float32 ``[N, C]`` by split, 0 and 1 or numbers; None for classes.
    """

    task: str
    class_names: tuple[str, ...]
    labels: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray] | None


def understand(splits: Mapping[str, Any], task: str = "auto") -> Labels:
    """Labels by split, of the kinds that there are.

    ``auto`` takes rows of 0 and 1, and lists of names, for ``multilabel``, numbers with fractions and other rows of
    numbers for ``regression``, and everything else for classes.

    Args:
        splits: by split, ``train`` among them: N names or numbers, ``[N, C]`` numbers, or N lists of names.
        task: as of ``--task``.

    Raises:
        UserError: a label is missing, or labels do not go with the task.
    """
    lists = all(_are_lists(labels) for labels in splits.values())
    if lists and task in ("auto", "multilabel"):
        return _of_lists({split: [list(map(str, row)) for row in labels] for split, labels in splits.items()})
    if lists:
        raise UserError(f"task={task} takes one label per image, and lists of them are given")
    arrays = {split: np.asarray(labels) for split, labels in splits.items()}
    if any(array.ndim not in (1, 2) for array in arrays.values()):
        raise UserError("labels must be N names or numbers, rows [N, C] of numbers, or N lists of names")
    if task == "auto":
        task = _task_of(arrays)
    if task == "multilabel":
        return _of_flags(arrays)
    if task == "regression":
        return _of_numbers(arrays)
    if any(array.ndim != 1 for array in arrays.values()):
        raise UserError(f"task={task} takes one label per image, and rows of them are given")
    named = {split: names(array, split) for split, array in arrays.items()}
    classes = sorted_names({name for of_split in named.values() for name in of_split})
    if len(classes) < 2:
        raise UserError(f"all labels are {readable(classes[0])}: at least two classes are needed")
    numbers = {name: number for number, name in enumerate(classes)}
    labels = {split: np.array([numbers[n] for n in of_split], np.int32) for split, of_split in named.items()}
    return Labels("classification", tuple(map(readable, classes)), labels, None)


def sorted_names(names: set[str]) -> list[str]:
    """Numbers by their value, anything else by its letters."""
    try:
        return sorted(names, key=float)
    except ValueError:
        return sorted(names)


def _are_lists(labels: Any) -> bool:
    """Whether each image has a list of names, and not a row of numbers."""
    if isinstance(labels, np.ndarray) or not isinstance(labels, Sequence) or isinstance(labels, str):
        return False
    rows = all(isinstance(row, list | tuple | set | frozenset) for row in labels)
    return rows and all(isinstance(name, str) for row in labels for name in row)


def _task_of(arrays: Mapping[str, np.ndarray]) -> str:
    rows = any(array.ndim == 2 for array in arrays.values())
    if rows and all(np.isin(array, (0, 1)).all() for array in arrays.values()):
        return "multilabel"
    fractions = any(array.dtype.kind == "f" and (array != np.round(array)).any() for array in arrays.values())
    return "regression" if rows or fractions else "classification"


def _of_lists(splits: Mapping[str, Sequence[Sequence[str]]]) -> Labels:
    classes = sorted_names({name for row in splits["train"] for name in row})
    places = {name: place for place, name in enumerate(classes)}
    targets = {}
    for split, rows in splits.items():
        targets[split] = np.zeros((len(rows), len(classes)), np.float32)
        for number, row in enumerate(rows):
            unknown = [name for name in row if name not in places]
            if unknown:
                raise UserError(f"{split}: the label {readable(unknown[0])} is of no training image")
            targets[split][number, [places[name] for name in row]] = 1
    return _several(tuple(map(readable, classes)), targets)


def _of_flags(arrays: Mapping[str, np.ndarray]) -> Labels:
    for split, array in arrays.items():
        if array.ndim != 2 or not np.isin(array, (0, 1)).all():
            raise UserError(
                f"{split}: task=multilabel takes lists of names, or rows of 0 and 1 for each image"
            )
    count = arrays["train"].shape[1]
    targets = {split: array.astype(np.float32) for split, array in arrays.items()}
    return _several(tuple(map(str, range(count))), targets)


def _several(class_names: tuple[str, ...], targets: Mapping[str, np.ndarray]) -> Labels:
    counts = {target.shape[1] for target in targets.values()}
    if counts != {len(class_names)} or not class_names:
        raise UserError(f"the splits have labels of {sorted(counts)} classes; give all of them the same")
    # Balanced by the rarest class that an image has, so that made splits get some of each.
    rarity = np.argsort(np.argsort(targets["train"].sum(0), kind="stable"))
    labels = {
        split: np.where(target.any(1), np.where(target > 0, rarity, len(rarity)).argmin(1) + 1, 0).astype(
            np.int32
        )
        for split, target in targets.items()
    }
    return Labels("multilabel", class_names, labels, targets)


def _of_numbers(arrays: Mapping[str, np.ndarray]) -> Labels:
    targets = {}
    for split, array in arrays.items():
        try:
            numbers = array.astype(np.float32)
        except ValueError as error:
            raise UserError(f"{split}: task=regression takes numbers ({readable(error)})") from error
        if not np.isfinite(numbers).all():
            raise UserError(f"{split}: the number of an image is missing")
        targets[split] = numbers.reshape(len(numbers), -1)
    columns = targets["train"].shape[1]
    if any(target.shape[1] != columns for target in targets.values()):
        raise UserError("the splits have other numbers of values per image; give all of them the same")
    value_names = ("value",) if columns == 1 else tuple(f"value_{number + 1}" for number in range(columns))
    labels = {split: np.zeros(len(target), np.int32) for split, target in targets.items()}
    return Labels("regression", value_names, labels, targets)


def names(labels: Any, split: str) -> list[str]:
    """Labels as names of classes.

    Args:
        labels: N names or numbers.
        split: for the message.

    Raises:
        UserError: one is missing.
    """
    array = np.asarray(labels)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise UserError(f"{split}: the label of an image is missing")
        return [f"{value:g}" for value in array.tolist()]
    values = array.tolist()
    label_texts = [str(value) for value in values]
    if any(value is None or name == "" for value, name in zip(values, label_texts, strict=True)):
        raise UserError(f"{split}: the label of an image is missing")
    return label_texts
