"""What a run says of images as text: a line per image to read, CSV, or JSON lines."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from finetune_jax.errors import readable
from finetune_jax.reports import tables

FORMATS = ("table", "csv", "json")
NONE_OF_THESE = "none of these"
"""The label of an image whose most probable class is below the threshold."""
BETWEEN = "|"
"""Between several labels of an image in CSV."""

_NAME_LENGTH = 1000  # characters of a path


class Prediction(NamedTuple):
    """The most probable labels of an image, or all that it has.

    Attributes:
        image: its path.
        labels: names of its classes, the most probable first.
        probabilities: of these.
        uncertainty: in [0, 1]; None where nobody asked.
        known: whether the first label is probable enough to count.
        several: whether an image may have any number of labels, also none.
    """

    image: str
    labels: Sequence[str]
    probabilities: Sequence[float]
    uncertainty: float | None = None
    known: bool = True
    several: bool = False


class Numbers(NamedTuple):
    """The numbers that are predicted of an image.

    Attributes:
        image: its path.
        names: of the numbers.
        values: of these.
    """

    image: str
    names: Sequence[str]
    values: Sequence[float]


def header(format: str, top: int, *, uncertainty: bool = False, several: bool = False) -> str:
    """What comes before the first image; empty where nothing does.

    >>> header("csv", 2)
    'image,label,probability,label_2,probability_2\\n'
    >>> header("csv", 1, uncertainty=True)
    'image,label,probability,uncertainty\\n'
    """
    if format != "csv":
        return ""
    more = [name for number in range(2, top + 1) for name in (f"label_{number}", f"probability_{number}")]
    last = ["uncertainty"] if uncertainty else []
    return tables.csv_text([["image", "label", "probability", *([] if several else more), *last]])


def number_header(format: str, names: Sequence[str]) -> str:
    """:func:`header` of numbers: one is the column ``value``, several are columns of their names.

    >>> number_header("csv", ["age"]), number_header("csv", ["x", "y"])
    ('image,value\\n', 'image,x,y\\n')
    """
    return tables.csv_text([["image", *_number_columns(names)]]) if format == "csv" else ""


def line(prediction: Prediction, format: str) -> str:
    """The text of one image, with its newline.

    >>> line(Prediction("a.jpg", ["cat", "dog"], [0.75, 0.25]), "table")
    'a.jpg\\tcat 0.7500  dog 0.2500\\n'
    >>> line(Prediction("a.jpg", ["cat"], [0.75]), "csv")
    'a.jpg,cat,0.750000\\n'
    >>> line(Prediction("a.jpg", ["cat"], [0.75]), "json")
    '{"image": "a.jpg", "label": "cat", "probability": 0.75, "top": [["cat", 0.75]]}\\n'
    >>> line(Prediction("a.jpg", ["cat", "dog"], [0.75, 0.5], several=True), "csv")
    'a.jpg,cat|dog,0.750000|0.500000\\n'
    >>> line(Prediction("a.jpg", ["cat"], [0.25], known=False), "csv")
    'a.jpg,none of these,0.250000\\n'
    """
    pairs = list(zip(prediction.labels, map(float, prediction.probabilities), strict=True))
    uncertainty = [] if prediction.uncertainty is None else [f"{prediction.uncertainty:.6f}"]
    if format == "csv":
        if prediction.several:
            labels = BETWEEN.join(label for label, _ in pairs)
            cells = [labels, BETWEEN.join(f"{probability:.6f}" for _, probability in pairs)]
        else:
            cells = [cell for label, probability in pairs for cell in (label, f"{probability:.6f}")]
            if not prediction.known:
                cells[0] = NONE_OF_THESE
        return tables.csv_text([[prediction.image, *cells, *uncertainty]])
    if format == "json":
        return json.dumps(_object(prediction, pairs), ensure_ascii=False) + "\n"
    shown = "  ".join(f"{label} {probability:.4f}" for label, probability in pairs)
    if prediction.several and not pairs:
        shown = NONE_OF_THESE
    if not prediction.known:
        shown = f"{NONE_OF_THESE} ({shown})"
    if uncertainty:
        shown += f"  uncertainty {prediction.uncertainty:.4f}"
    return f"{readable(prediction.image, _NAME_LENGTH)}\t{shown}\n"


def number_line(numbers: Numbers, format: str) -> str:
    """:func:`line` of numbers.

    >>> number_line(Numbers("a.jpg", ["age"], [31.5]), "csv")
    'a.jpg,31.5\\n'
    >>> number_line(Numbers("a.jpg", ["age"], [31.5]), "json")
    '{"image": "a.jpg", "value": 31.5}\\n'
    """
    texts = [f"{float(value):.7g}" for value in numbers.values]
    if format == "csv":
        return tables.csv_text([[numbers.image, *texts]])
    if format == "json":
        columns = _number_columns(numbers.names)
        values = {name: float(text) for name, text in zip(columns, texts, strict=True)}
        return json.dumps({"image": numbers.image, **values}, ensure_ascii=False) + "\n"
    shown = "  ".join(f"{name} {text}" for name, text in zip(numbers.names, texts, strict=True))
    return f"{readable(numbers.image, _NAME_LENGTH)}\t{shown}\n"


def _object(prediction: Prediction, pairs: Sequence[tuple[str, float]]) -> dict[str, object]:
    rounded = [[label, round(probability, 6)] for label, probability in pairs]
    more = {} if prediction.uncertainty is None else {"uncertainty": round(prediction.uncertainty, 6)}
    if prediction.several:
        labels = [label for label, _ in rounded]
        chances = [probability for _, probability in rounded]
        return {"image": prediction.image, "labels": labels, "probabilities": chances, **more}
    label = rounded[0][0] if prediction.known else None
    return {"image": prediction.image, "label": label, "probability": rounded[0][1], "top": rounded, **more}


def _number_columns(names: Sequence[str]) -> list[str]:
    return ["value"] if len(names) == 1 else list(names)


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


def tested_values_csv(
    names: Sequence[str], values: np.ndarray, predicted: np.ndarray, value_names: Sequence[str]
) -> str:
    """Tested images: their numbers and the predicted ones, as CSV.

    Args:
        names: of N images.
        values: float ``[N, D]``.
        predicted: float ``[N, D]``.
        value_names: D of them.

    >>> print(tested_values_csv(["a.jpg"], np.array([[2.0]]), np.array([[1.5]]), ["age"]), end="")
    image,age,predicted_age
    a.jpg,2,1.5
    """
    columns = [column for name in value_names for column in (name, f"predicted_{name}")]
    rows: list[list[str]] = [["image", *columns]]
    for name, true, prediction in zip(names, values, predicted, strict=True):
        rows.append(
            [name, *[f"{number:.6g}" for pair in zip(true, prediction, strict=True) for number in pair]]
        )
    return tables.csv_text(rows)


def tested_labels_csv(
    names: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    present: np.ndarray,
    class_names: Sequence[str],
) -> str:
    """Tested images of any number of classes: those that they have, those predicted, and probabilities, as CSV.

    Args:
        names: of N images.
        labels: 0 and 1, ``[N, C]``.
        probabilities: float ``[N, C]``.
        present: which classes are predicted, bool ``[N, C]``.
        class_names: C of them.

    >>> chances = np.array([[0.9, 0.2]])
    >>> print(tested_labels_csv(["a"], np.array([[1, 1]]), chances, chances > 0.5, ["x", "y"]), end="")
    image,label,prediction,probability_x,probability_y
    a,x|y,x,0.900000,0.200000
    """
    shown = len(class_names) <= MOST_COLUMNS
    columns = [f"probability_{name}" for name in class_names] if shown else []
    rows = [["image", "label", "prediction", *columns]]
    for name, truth, row, has in zip(names, labels, probabilities, present, strict=True):
        listed = [
            "|".join(class_names[int(place)] for place in np.flatnonzero(which))
            for which in (truth > 0.5, has)
        ]
        rows.append([name, *listed, *([f"{value:.6f}" for value in row] if shown else [])])
    return tables.csv_text(rows)
