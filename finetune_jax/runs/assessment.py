"""How good what a network says is, and how far that can be trusted: scores, intervals, groups, calibration."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import calibrating, scores
from finetune_jax.config import fit_task
from finetune_jax.models import answers
from finetune_jax.models.card import Card

SAMPLES = 1000
_RANKING_CELLS = 100_000_000
"""Draws times images times classes that intervals of AUROC and average precision may look at, about a second."""
_FEWEST_SAMPLES = 100
MOST_GROUPS = 100
"""Groups whose scores are listed."""


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What outputs are worth.

    Attributes:
        scores: by name.
        intervals: 95 % bootstrap intervals, by name of the score; those that would take long are left out.
        groups: ``{group: {"images": number, score: value, …}}``; empty without groups.
    """

    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    groups: dict[str, dict[str, Any]]


def fitted(card: Card, outputs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The entries of a card that are fitted to validation images: ``temperature``, and ``thresholds`` of classes.

    Args:
        card: of the network.
        outputs: of it for the images, ``[N, …]``.
        labels: int ``[N]`` or float ``[N, C]``.

    Returns:
        JSON; empty for numbers, and without images.
    """
    if not len(labels) or card.task == "regression" or card.head == "embedding":
        return {}
    if card.task == "ordinal":
        return {"temperature": calibrating.temperature_of_grades(outputs, labels)}
    if card.task != "multilabel":
        return {"temperature": calibrating.temperature_of_classes(outputs, labels)}
    temperature = calibrating.temperature_of_labels(outputs, labels)
    chances = predicted_values(dataclasses.replace(card, temperature=temperature), outputs)
    return {
        "temperature": temperature,
        "thresholds": calibrating.thresholds(chances, labels).round(6).tolist(),
    }


def predicted_values(card: Card, outputs: np.ndarray) -> np.ndarray:
    """Probabilities or numbers of outputs, float64 ``[N, C]``, computed as prediction does."""
    return np.asarray(answers.of_outputs(card)(jnp.asarray(outputs, jnp.float32)), np.float64)


def grade_values(card: Card) -> np.ndarray:
    """The numbers that the names of grades are, ``[K]``."""
    return np.array([float(name) for name in card.class_names])


def thresholds_of(card: Card) -> np.ndarray:
    """Of each class, ``[C]``."""
    return np.array(card.thresholds or (0.5,) * len(card.class_names))


def assess(
    card: Card, outputs: np.ndarray, labels: np.ndarray, groups: Sequence[str] | None = None
) -> Assessment:
    """Scores of the outputs of a card's network for N images.

    Args:
        card: with what was fitted.
        outputs: ``[N, …]``.
        labels: int ``[N]`` or float ``[N, C]``.
        groups: names of the images' groups.
    """
    cheap, ranking = _functions(card, outputs, labels)
    values = scores.plain(cheap, len(labels))
    ends = scores.intervals(cheap, len(labels), samples=SAMPLES)
    if ranking is not None:
        values |= scores.plain(ranking, len(labels))
        samples = min(SAMPLES, _RANKING_CELLS // (len(labels) * len(card.class_names)))
        if samples >= _FEWEST_SAMPLES:
            ends |= scores.intervals(ranking, len(labels), samples=samples)
    of_groups: dict[str, dict[str, Any]] = {}
    if groups is not None and 1 < len(set(groups)) <= MOST_GROUPS:
        group_scores = scores.of_groups(cheap, list(groups))
        of_groups = {
            name: {"images": images, **of_group} for name, (images, of_group) in group_scores.items()
        }
        for row in of_groups.values():
            row.pop("loss", None)
            row.pop("calibration_error", None)
            row.pop("uncalibrated_error", None)
    names = {"average_precision": "mean_average_precision"} if card.task == "multilabel" else {}
    return Assessment(
        {names.get(name, name): value for name, value in values.items() if not np.isnan(value)},
        {names.get(name, name): pair for name, pair in ends.items()},
        of_groups,
    )


def score(card: Card, outputs: np.ndarray, labels: np.ndarray) -> float:
    """The number by which runs of a card's task are compared, see ``fit_task.SCORES``; 0 where it is not defined.

    Args:
        card: of the network.
        outputs: of it for N images, ``[N, …]``.
        labels: int ``[N]`` or float ``[N, C]``.
    """
    cheap, ranking = _functions(card, outputs, labels)
    if card.task == "multilabel":
        assert ranking is not None
        value = scores.plain(ranking, len(labels))["average_precision"]
    else:
        value = scores.plain(cheap, len(labels))[fit_task.SCORES[card.task]]
    return 0.0 if np.isnan(value) else float(value)


def _functions(
    card: Card, outputs: np.ndarray, labels: np.ndarray
) -> tuple[scores.Weighted, scores.Weighted | None]:
    """Scores that cost little, and those that sort images class by class."""
    values = predicted_values(card, outputs)
    if card.task == "regression":
        return scores.of_numbers(values, labels), None
    plain = dataclasses.replace(card, temperature=1.0)
    uncalibrated = predicted_values(plain, outputs)
    if card.task == "multilabel":
        truth = labels > 0.5

        def sure(chances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.maximum(chances, 1 - chances), (chances > 0.5) == truth

        cheap = scores.together(
            scores.of_labels(values, labels, thresholds_of(card)),
            _calibration(sure(values), sure(uncalibrated)),
        )
        return cheap, scores.of_ranking(values, truth)

    def confidence(chances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return chances.max(1), chances.argmax(1) == labels

    calibration = _calibration(confidence(values), confidence(uncalibrated))
    if card.task == "ordinal":
        return scores.together(scores.of_grades(values, labels, grade_values(card)), calibration), None
    truth = labels[:, None] == np.arange(values.shape[1])
    return scores.together(scores.of_classes(values, labels), calibration), scores.of_ranking(values, truth)


def _calibration(
    after: tuple[np.ndarray, np.ndarray], before: tuple[np.ndarray, np.ndarray]
) -> scores.Weighted:
    """``calibration_error``, and ``uncalibrated_error`` without the temperature."""
    error, earlier = scores.of_calibration(*after), scores.of_calibration(*before)
    return lambda weights: {
        **error(weights),
        "uncalibrated_error": earlier(weights)["calibration_error"],
    }
