"""Predicted labels as text: a line per image to read, CSV, or JSON lines."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from finetune_jax.errors import readable
from finetune_jax.reports import tables

FORMATS = ("table", "csv", "json")

_NAME_LENGTH = 1000  # characters of a path


class Prediction(NamedTuple):
    """The most probable labels of an image.

    Attributes:
        image: its path.
        labels: names of its classes, the most probable first.
        probabilities: of these.
    """

    image: str
    labels: Sequence[str]
    probabilities: Sequence[float]


def header(format: str, top: int) -> str:
    """What comes before the first image; empty where nothing does.

    >>> header("csv", 2)
    'image,label,probability,label_2,probability_2\\n'
    """
    if format != "csv":
        return ""
    more = [name for number in range(2, top + 1) for name in (f"label_{number}", f"probability_{number}")]
    return tables.csv_text([["image", "label", "probability", *more]])


def line(prediction: Prediction, format: str) -> str:
    """The text of one image, with its newline.

    >>> line(Prediction("a.jpg", ["cat", "dog"], [0.75, 0.25]), "table")
    'a.jpg\\tcat 0.7500  dog 0.2500\\n'
    >>> line(Prediction("a.jpg", ["cat"], [0.75]), "csv")
    'a.jpg,cat,0.750000\\n'
    >>> line(Prediction("a.jpg", ["cat"], [0.75]), "json")
    '{"image": "a.jpg", "label": "cat", "probability": 0.75, "top": [["cat", 0.75]]}\\n'
    """
    pairs = list(zip(prediction.labels, map(float, prediction.probabilities), strict=True))
    if format == "csv":
        cells = [cell for label, probability in pairs for cell in (label, f"{probability:.6f}")]
        return tables.csv_text([[prediction.image, *cells]])
    if format == "json":
        rounded = [[label, round(probability, 6)] for label, probability in pairs]
        best = {"image": prediction.image, "label": rounded[0][0], "probability": rounded[0][1]}
        return json.dumps({**best, "top": rounded}, ensure_ascii=False) + "\n"
    shown = "  ".join(f"{label} {probability:.4f}" for label, probability in pairs)
    return f"{readable(prediction.image, _NAME_LENGTH)}\t{shown}\n"


MOST_COLUMNS = 100
"""Classes up to which a table of tested images has the probability of each."""


def tested_csv(
    names: Sequence[str], labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> str:
    """Tested images: their class, the likeliest one, and probabilities, as CSV.

    Args:
        names: of N images.
        labels: int ``[N]``.
        probabilities: float ``[N, C]``.
        class_names: C of them.

    >>> print(tested_csv(["a.jpg"], np.array([1]), np.array([[0.75, 0.25]]), ["cat", "dog"]), end="")
    image,label,prediction,probability,probability_cat,probability_dog
    a.jpg,dog,cat,0.750000,0.750000,0.250000
    """
    shown = len(class_names) <= MOST_COLUMNS
    columns = [f"probability_{name}" for name in class_names] if shown else []
    rows = [["image", "label", "prediction", "probability", *columns]]
    for name, label, row in zip(names, labels, probabilities, strict=True):
        best = int(row.argmax())
        numbers = [f"{value:.6f}" for value in row] if shown else []
        rows.append([name, class_names[label], class_names[best], f"{row[best]:.6f}", *numbers])
    return tables.csv_text(rows)
