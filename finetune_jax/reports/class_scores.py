"""What a classifier makes of each class: recalls with intervals, and the worst confusions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from finetune_jax.algorithms.metrics import confusion_matrix, per_class_recall
from finetune_jax.algorithms.uncertainty import wilson_interval
from finetune_jax.reports.tables import csv_text

CONFUSIONS = 20
"""How many a report lists."""


class ClassScore(NamedTuple):
    """A class that has test images.

    Attributes:
        name: of the class.
        images: how many.
        recall: share of them that are recognised.
        interval: 95 % Wilson interval of it.
        taken_for: up to two classes that are most often predicted instead, with numbers of images.
    """

    name: str
    images: int
    recall: float
    interval: tuple[float, float]
    taken_for: Sequence[tuple[str, int]]


class Confusion(NamedTuple):
    """A class that is taken for another.

    Attributes:
        true: name of the class.
        predicted: name of the other.
        mistaken: number of images.
        images: of the true class in all.
    """

    true: str
    predicted: str
    mistaken: int
    images: int


def matrix_of(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """The confusion matrix of ``[N, C]`` logits."""
    return confusion_matrix(logits.argmax(1), labels, len(class_names))


def by_recall(matrix: np.ndarray, class_names: Sequence[str]) -> list[ClassScore]:
    """Every class with images, the one with the lowest recall first.

    Args:
        matrix: counts ``[C, C]``, rows are true classes.
        class_names: ``C`` names.
    """
    recalls, images = per_class_recall(matrix), matrix.sum(1)
    scores = []
    for place in map(int, np.flatnonzero(images)):
        row, count = matrix[place], int(images[place])
        order = map(int, np.argsort(-row, kind="stable"))
        others = [other for other in order if other != place and row[other]][:2]
        scores.append(
            ClassScore(
                class_names[place],
                count,
                float(recalls[place]),
                wilson_interval(int(row[place]), count),
                [(class_names[other], int(row[other])) for other in others],
            )
        )
    return sorted(scores, key=lambda score: (score.recall, -score.images))


def worst_confusions(
    matrix: np.ndarray, class_names: Sequence[str], *, most: int = CONFUSIONS
) -> list[Confusion]:
    """Pairs of classes by the number of images, at most so many.

    Arguments as of :func:`by_recall`.
    """
    images = matrix.sum(1)
    off = matrix * ~np.eye(len(matrix), dtype=bool)
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, off.shape), strict=True)
    return [
        Confusion(class_names[true], class_names[predicted], int(off[true, predicted]), int(images[true]))
        for true, predicted in pairs
        if off[true, predicted]
    ]


def classes_csv(scores: Sequence[ClassScore]) -> str:
    """A row per class, for programs."""
    columns = ("class", "images", "recall", "recall_low", "recall_high", "most_often_taken_for")
    rows = (
        (
            score.name,
            score.images,
            score.recall,
            *score.interval,
            score.taken_for[0][0] if score.taken_for else "",
        )
        for score in scores
    )
    return csv_text([columns, *rows])
