"""What a page shows of images with any number of classes, and of numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune_jax.algorithms import scores
from finetune_jax.algorithms.uncertainty import calibration
from finetune_jax.reports import figures, pages
from finetune_jax.reports.run_result import Labelled, Measured
from finetune_jax.reports.study_report import Picture
from finetune_jax.reports.tables import Table, csv_text, mappings_table

_SHOWN = 12
_MOST_SCATTERS = 6


def per_class(
    probabilities: np.ndarray, targets: np.ndarray, thresholds: np.ndarray, class_names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Images, average precision, threshold, precision, recall and F1 of each class; NaN where undefined.

    Args:
        probabilities: ``[N, C]``.
        targets: ``[N, C]``, 0 and 1.
        thresholds: ``[C]``.
        class_names: ``C`` names.
    """
    truth, predicted = targets > 0.5, probabilities >= thresholds
    hits = (truth & predicted).sum(0)
    rows = {}
    for number, name in enumerate(class_names):
        column = slice(number, number + 1)
        ranking = scores.plain(scores.of_ranking(probabilities[:, column], truth[:, column]), len(truth))
        label_count, predicted_count = int(truth[:, number].sum()), int(predicted[:, number].sum())
        rows[name] = {
            "images": label_count,
            "average_precision": ranking["average_precision"],
            "threshold": float(thresholds[number]),
            "precision": float(hits[number] / predicted_count) if predicted_count else float("nan"),
            "recall": float(hits[number] / label_count) if label_count else float("nan"),
            "f1": float(2 * hits[number] / (label_count + predicted_count))
            if label_count + predicted_count
            else 0.0,
        }
    return rows


def class_table(test: Labelled) -> Table:
    """A row per class, the one with the lowest average precision first."""
    rows = per_class(test.probabilities, test.targets, test.thresholds, test.class_names)
    order = sorted(rows, key=lambda name: np.nan_to_num(rows[name]["average_precision"], nan=2.0))
    return mappings_table("class", {name: rows[name] for name in order})


def classes_csv(test: Labelled) -> str:
    """A row per class in the order of the classes, for programs."""
    rows = per_class(test.probabilities, test.targets, test.thresholds, test.class_names)
    columns = list(next(iter(rows.values())))
    return csv_text(
        [["class", *columns], *([name, *(row[column] for column in columns)] for name, row in rows.items())]
    )


def pictures_of(test: Labelled | Measured) -> list[Picture]:
    """Reliability of the probabilities, or predictions over true numbers."""
    if isinstance(test, Labelled):
        return [_reliability(test)]
    pictures = []
    for number, name in enumerate(test.number_names[:_MOST_SCATTERS]):
        figure = figures.draw_scatter(test.values[:, number], test.targets[:, number], name)
        caption = f"Predicted {name} of each test image over the true one; on the dotted line they are equal."
        pictures.append(Picture("scatter" if number == 0 else f"scatter_{number + 1}", caption, figure))
    return pictures


def _reliability(test: Labelled) -> Picture:
    """Every class of every image is an answer yes or no."""
    truth = test.targets.reshape(-1).astype(int)

    def of(probabilities: np.ndarray) -> Any:
        yes = probabilities.reshape(-1)
        return calibration(np.stack([1 - yes, yes], 1), truth)

    after, before = of(test.probabilities), of(test.uncalibrated)
    caption = (
        "How often an answer (a class, yes or no) is right over how sure the network is of it. Expected calibration "
        f"error {100 * after.error:.2f} %, without the temperature {100 * before.error:.2f} %."
    )
    figure = figures.draw_reliability(
        after.confidence, after.accuracy, after.images, before=(before.confidence, before.accuracy)
    )
    return Picture("reliability", caption, figure)


def worst(test: Labelled | Measured) -> list[dict[str, Any]]:
    """The test images that are furthest from the truth, as cards with lines of text."""
    if test.images is None or not len(test.images):
        return []
    return [_card(test, place) for place in furthest(test)[:_SHOWN]]


def furthest(test: Labelled | Measured) -> list[int]:
    """Places of the images that are furthest from the truth, those first; of labels only where one is wrong.

    Numbers are compared in units of the deviation of the true ones; of labels the surest wrong one counts.
    """
    if isinstance(test, Measured):
        spread = test.targets.std(0)
        distances = (np.abs(test.values - test.targets) / np.where(spread > 0, spread, 1)).max(1)
        return np.argsort(-distances, kind="stable").tolist()
    wrong = (test.targets > 0.5) != (test.probabilities >= test.thresholds)
    sure = np.where(test.targets > 0.5, 1 - test.probabilities, test.probabilities)
    places = np.argsort(-(sure * wrong).max(1, initial=0), kind="stable")
    return [int(place) for place in places if wrong[place].any()]


def lines_of(test: Labelled | Measured, place: int) -> list[tuple[str, str]]:
    """``(kind, text)`` of what is said of an image and what is true, to stand below it."""
    return _number_lines(test, place) if isinstance(test, Measured) else _label_lines(test, place)


def _card(test: Labelled | Measured, place: int) -> dict[str, Any]:
    assert test.images is not None
    image = test.images[place]
    return {
        "source": pages.image(image),
        "small": pages.is_small(image),
        "lines": lines_of(test, place),
        "name": test.names[place] if len(test.names) else "",
    }


def _number_lines(test: Measured, place: int) -> list[tuple[str, str]]:
    lines = []
    for number, name in enumerate(test.number_names[:3]):
        label = "" if len(test.number_names) == 1 else f"{name} "
        lines += [
            ("wrong", f"{label}{test.values[place, number]:.4g}"),
            ("", f"true: {test.targets[place, number]:.4g}"),
        ]
    return lines


def _label_lines(test: Labelled, place: int) -> list[tuple[str, str]]:
    truth, chances = test.targets[place] > 0.5, test.probabilities[place]
    predicted = chances >= test.thresholds
    lines = [
        (
            "wrong" if truth[i] != predicted[i] else "right",
            f"{'✓' if truth[i] == predicted[i] else '✗'} {test.class_names[i]} {100 * chances[i]:.0f} %"
            + ("" if truth[i] == predicted[i] else ", not there" if predicted[i] else ", missed"),
        )
        for i in map(int, np.flatnonzero(truth | predicted))
    ]
    return lines[:8]
