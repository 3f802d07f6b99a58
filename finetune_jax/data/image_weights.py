"""Weights of images: numbers by which the loss of each is multiplied."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_jax.errors import UserError, readable

USUAL_NAMES = ("weight", "sample_weight", "image_weight", "example_weight", "loss_weight")
"""What a column of weights may be called; it is never guessed, since a weight may be one in kilograms."""


def of_column(
    cells: Mapping[str, Sequence[str]], rows: Mapping[str, Sequence[int]], column: str, name: str
) -> dict[str, np.ndarray]:
    """The weights that a column of a table holds, float32 ``[N]`` by split.

    Args:
        cells: text by split, ``train`` among them; empty outside of it is 1, as nothing is learned from those images.
        rows: numbers of their rows.
        column: its name, for messages.
        name: of the table, for messages.

    Raises:
        UserError: one is missing, negative or no number, or all are 0; names the row.
    """
    weights = {}
    for split, values in cells.items():
        weights[split] = np.ones(len(values), np.float32)
        for place, (row, value) in enumerate(zip(rows[split], values, strict=True)):
            if value or split == "train":
                weights[split][place] = _number(value, f"{name}: row {row}", column)
    _refuse_nothing(weights["train"], f"{name}: the column {readable(column)}")
    return weights


def of_program(weights: Any, count: int, split: str) -> np.ndarray:
    """Weights that a Python program hands over, float32 ``[N]``.

    Args:
        weights: N numbers.
        count: N.
        split: for messages.

    Raises:
        UserError: there are other than N, or one is negative or no number, or all are 0.
    """
    try:
        array = np.asarray(weights, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{split}: weights must be numbers ({readable(error)})") from error
    if array.shape != (count,):
        raise UserError(f"{split}: {count} images and weights of the shape {array.shape} are given")
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise UserError(f"{split}: the weight of an image is negative or no number")
    _refuse_nothing(array, split)
    return array


def note(weights: np.ndarray) -> str:
    """A sentence on the weights of the training images ``[N]``.

    >>> note(np.array([0.5, 1.5]))
    'the loss of each training image is multiplied by its weight, 0.5 to 1.5, on average 1'
    """
    return (
        f"the loss of each training image is multiplied by its weight, {weights.min():g} to {weights.max():g}, on "
        f"average {weights.mean(dtype=np.float64):.4g}"
    )


def _number(value: str, row: str, column: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = np.nan
    if not 0 <= number < np.inf:
        what = f"the weight {readable(value)}" if value else "no weight"
        raise UserError(f"{row} has {what} (column {readable(column)}); give a number that is not negative")
    return number


def _refuse_nothing(weights: np.ndarray, what: str) -> None:
    if len(weights) and not weights.any():
        raise UserError(f"{what} weighs every training image 0, so nothing would be learned")
