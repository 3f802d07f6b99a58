"""Probabilities that can be taken at their word: a temperature, and thresholds of classes. On the host."""

from collections.abc import Callable

import numpy as np

BOUNDS = (0.05, 20.0)
"""Between these a temperature is searched."""


def temperature_of_classes(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T for which ``softmax(logits / T)`` has the least cross-entropy.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 4.2. Labels are taken as true
    with the probability ``(N + 1) / (N + 2)`` and the rest is spread over the other classes, as Platt ("Probabilistic
    Outputs for Support Vector Machines", 1999) does: without that, images that are all right would give T = 0.

    Args:
        logits: ``[N, C]``.
        labels: int ``[N]``.

    >>> logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]] * 100)
    >>> round(temperature_of_classes(logits, np.array([0, 0, 0, 1] * 100)), 2)  # 0.9 is said, 0.75 is right
    2.01
    """
    logits = np.asarray(logits, np.float64)
    count, classes = logits.shape
    doubt = 1 / (count + 2)
    others = doubt / max(1, classes - 1)
    label_logits = logits[np.arange(count), labels]
    linear = (1 - doubt - others) * label_logits + others * logits.sum(1)

    def cost(temperature: float) -> float:
        scaled = logits / temperature
        largest = scaled.max(1)
        normaliser = largest + np.log(np.exp(scaled - largest[:, None]).sum(1))
        return float((normaliser - linear / temperature).mean())

    return _least(cost)


def temperature_of_labels(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature T for which ``sigmoid(logits / T)`` has the least binary cross-entropy, else as above.

    Args:
        logits: ``[N, C]``.
        targets: ``[N, C]``, 0 and 1.

    >>> logits = np.full((400, 1), np.log(9.0))
    >>> round(temperature_of_labels(logits, np.array([[1], [1], [1], [0]] * 100)), 2)
    2.01
    """
    logits = np.asarray(logits, np.float64)
    doubt = 1 / (len(logits) + 2)
    smoothed = np.asarray(targets, np.float64) * (1 - 2 * doubt) + doubt
    return _least(lambda t: float((np.logaddexp(0, logits / t) - smoothed * logits / t).mean()))


def temperature_of_grades(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of ``ordinal.probabilities(logits / T)``, else as above.

    Args:
        logits: ``[N, K − 1]``.
        labels: int ``[N]``.

    >>> logits = np.full((400, 1), np.log(9.0))
    >>> round(temperature_of_grades(logits, np.array([1, 1, 1, 0] * 100)), 2)
    2.01
    """
    logits = np.asarray(logits, np.float64)
    grades = np.asarray(labels)[:, None]
    questions = np.arange(logits.shape[1])
    asked, above = grades >= questions, grades > questions
    doubt = 1 / (len(logits) + 2)
    smoothed = above * (1 - 2 * doubt) + doubt
    return _least(lambda t: float((asked * (np.logaddexp(0, logits / t) - smoothed * logits / t)).sum()))


def thresholds(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """For each class the threshold with the largest F1, half-way between two probabilities, ``[C]``.

    Of equally good ones the one nearest to one half; one half for a class that no image has.

    Args:
        probabilities: ``[N, C]``.
        targets: ``[N, C]``, 0 and 1.

    >>> thresholds(np.array([[0.1], [0.2], [0.4]]), np.array([[0], [1], [1]])).round(2).tolist()
    [0.15]
    """
    truth = np.asarray(targets) > 0.5
    chosen = np.full(truth.shape[1], 0.5)
    for number in range(truth.shape[1]):
        positives = int(truth[:, number].sum())
        if not positives:
            continue
        order = np.argsort(-probabilities[:, number], kind="stable")
        ordered = probabilities[order, number]
        last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))  # of those with equal probabilities
        cuts = (ordered[last] + np.append(ordered[last[:-1] + 1], 0)) / 2
        hits = np.cumsum(truth[order, number])[last]
        quality = 2 * hits / (positives + last + 1)
        best = np.flatnonzero(quality >= quality.max() - 1e-12)
        chosen[number] = cuts[best[np.argmin(np.abs(cuts[best] - 0.5))]]
    return chosen


def _least(cost: Callable[[float], float]) -> float:
    """Where a cost of a temperature is least; it is convex in ``1 / T``."""
    from scipy import optimize

    minimum = optimize.minimize_scalar(
        lambda inverse: cost(1 / inverse), bounds=(1 / BOUNDS[1], 1 / BOUNDS[0]), method="bounded"
    )
    return round(float(1 / minimum.x), 6)
