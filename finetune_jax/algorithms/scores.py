"""Scores of test images under weights of the images: one implementation of a score, its interval, and that of groups.

Every function takes weights ``[S, N]`` and gives ``{name: float64 [S]}``, a value per row of weights. A row of ones is
the plain score, counts of draws with replacement are a bootstrap, and the members of a group are the score of the
group. Equal to scikit-learn's of the same names with ``sample_weight``; NaN where a score is undefined. NumPy on the
host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

Scores = dict[str, np.ndarray]
Weighted = Callable[[np.ndarray], Scores]
"""Weights ``[S, N]`` to scores ``[S]``."""

_CELLS_AT_ONCE = 4_000_000
_TOP = 5


def of_classes(probabilities: np.ndarray, labels: np.ndarray) -> Weighted:
    """Scores of one class per image: loss, accuracy, top-5, balanced accuracy, macro F1, Cohen's kappa.

    The mean over classes leaves out those that neither labels nor predictions have, as scikit-learn does. The largest
    of equal probabilities is that of the first class.

    Args:
        probabilities: ``[N, C]``, rows that add up to 1.
        labels: int ``[N]``.

    >>> scores = of_classes(np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]), np.array([0, 1, 1]))
    >>> values = scores(np.ones((1, 3)))
    >>> round(float(values["balanced_accuracy"][0]), 3), round(float(values["cohen_kappa"][0]), 3)
    (0.75, 0.4)
    """
    count = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    right = predicted == labels
    label_probabilities = probabilities[np.arange(len(labels)), labels]
    cost = -np.log(np.maximum(label_probabilities, np.finfo(np.float64).tiny))
    ahead = (probabilities > label_probabilities[:, None]).sum(1)
    ahead += ((probabilities == label_probabilities[:, None]) & (np.arange(count) < labels[:, None])).sum(1)

    def scores(weights: np.ndarray) -> Scores:
        total = weights.sum(1)
        label_counts, predicted_counts = (
            _per_class(weights, labels, count),
            _per_class(weights, predicted, count),
        )
        hits = _per_class(weights * right, labels, count)
        accuracy = weights @ right / total
        chance = (label_counts * predicted_counts).sum(1) / total**2
        values = {
            "loss": weights @ cost / total,
            "accuracy": accuracy,
            "balanced_accuracy": _mean(_share(hits, label_counts)),
            "macro_f1": _mean(_share(2 * hits, label_counts + predicted_counts)),
            "cohen_kappa": _share(accuracy - chance, 1 - chance),
        }
        if count > _TOP:
            values["top5_accuracy"] = weights @ (ahead < _TOP) / total
        return values

    return scores


def of_ranking(probabilities: np.ndarray, targets: np.ndarray) -> Weighted:
    """Macro AUROC and average precision, class by class against all others.

    Classes without images, and for the AUROC those without other images, are left out of the mean.

    Args:
        probabilities: ``[N, C]``.
        targets: bool ``[N, C]``, whether an image has the class.

    >>> scores = of_ranking(np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]), np.array([[1, 0], [0, 1], [0, 1]], bool))
    >>> {name: float(value[0]) for name, value in scores(np.ones((1, 3))).items()}
    {'auroc': 1.0, 'average_precision': 1.0}
    """
    classes = [_Ranked(probabilities[:, number], targets[:, number]) for number in range(targets.shape[1])]

    def scores(weights: np.ndarray) -> Scores:
        areas, precisions = zip(*(ranked.scores(weights) for ranked in classes), strict=True)
        return {"auroc": _mean(np.stack(areas, 1)), "average_precision": _mean(np.stack(precisions, 1))}

    return scores


def of_labels(probabilities: np.ndarray, targets: np.ndarray, thresholds: ArrayLike = 0.5) -> Weighted:
    """Scores of any number of classes per image: F1 micro and macro, share of images with all classes right, loss.

    Args:
        probabilities: ``[N, C]``, each in [0, 1].
        targets: ``[N, C]``, 0 and 1.
        thresholds: of each class, ``[C]``; an image has the class from there on.

    >>> scores = of_labels(np.array([[0.9, 0.2], [0.4, 0.8]]), np.array([[1, 1], [0, 1]]))
    >>> {name: round(float(value[0]), 3) for name, value in scores(np.ones((1, 2))).items()}
    {'loss': 0.612, 'micro_f1': 0.8, 'macro_f1': 0.833, 'exact_match': 0.5}
    """
    truth = np.asarray(targets) > 0.5
    predicted = probabilities >= np.asarray(thresholds)
    hits = truth & predicted
    tiny = np.finfo(np.float64).tiny
    cost = -np.log(np.maximum(np.where(truth, probabilities, 1 - probabilities), tiny)).mean(1)
    exact = (truth == predicted).all(1)

    def scores(weights: np.ndarray) -> Scores:
        right, all_of_them = weights @ hits, weights @ truth + weights @ predicted
        total = weights.sum(1)
        return {
            "loss": weights @ cost / total,
            "micro_f1": _share(2 * right.sum(1), all_of_them.sum(1)),
            # 0 for a class that is neither there nor predicted, as scikit-learn has it.
            "macro_f1": np.nan_to_num(_share(2 * right, all_of_them)).mean(1),
            "exact_match": weights @ exact / total,
        }

    return scores


def of_numbers(values: np.ndarray, targets: np.ndarray) -> Weighted:
    """MAE, RMSE and R² of numbers, each a mean over the columns.

    R² of constant targets is 1 where they are met and 0 elsewhere, as in scikit-learn.

    Args:
        values: predicted, ``[N, D]``.
        targets: ``[N, D]``.

    >>> scores = of_numbers(np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [3.0], [5.0]]))
    >>> {name: round(float(value[0]), 3) for name, value in scores(np.ones((1, 3))).items()}
    {'mae': 0.667, 'rmse': 0.816, 'r2': 0.75}
    """
    truth = np.asarray(targets, np.float64)
    error = np.asarray(values, np.float64) - truth

    def scores(weights: np.ndarray) -> Scores:
        total = weights.sum(1, keepdims=True)
        squares = weights @ error**2
        centre = weights @ truth / total
        # About the mean of all first: squares of large numbers would cancel.
        offset = truth.mean(0)
        spread = weights @ (truth - offset) ** 2 - total * (centre - offset) ** 2
        constant = spread <= 1e-12 * np.maximum(weights @ (truth - offset) ** 2, np.finfo(np.float64).tiny)
        explained = np.where(constant, (squares == 0) * 1.0, 1 - squares / np.where(constant, 1, spread))
        return {
            "mae": (weights @ np.abs(error) / total).mean(1),
            "rmse": np.sqrt(squares / total).mean(1),
            "r2": explained.mean(1),
        }

    return scores


def of_grades(probabilities: np.ndarray, labels: np.ndarray, values: ArrayLike) -> Weighted:
    """Scores of ordered grades: loss, accuracy, MAE and RMSE in their values, quadratic kappa of their ranks.

    Args:
        probabilities: ``[N, K]``.
        labels: int ``[N]``.
        values: of the grades, ``[K]``.

    >>> scores = of_grades(np.eye(3)[[0, 1, 2, 1]], np.array([0, 1, 2, 2]), [0, 1, 2])
    >>> {name: round(float(value[0]), 3) for name, value in scores(np.ones((1, 4))).items() if name != "loss"}
    {'accuracy': 0.75, 'mae': 0.25, 'rmse': 0.5, 'quadratic_kappa': 0.8}
    """
    predicted = probabilities.argmax(1)
    grades = np.asarray(values, np.float64)
    error = grades[predicted] - grades[labels]
    predicted_ranks, truth = predicted.astype(np.float64), labels.astype(np.float64)
    label_probabilities = probabilities[np.arange(len(labels)), labels]
    cost = -np.log(np.maximum(label_probabilities, np.finfo(np.float64).tiny))

    def scores(weights: np.ndarray) -> Scores:
        total = weights.sum(1)

        def mean(of: np.ndarray) -> np.ndarray:
            return weights @ of / total

        by_chance = mean(predicted_ranks**2) + mean(truth**2) - 2 * mean(predicted_ranks) * mean(truth)
        return {
            "loss": mean(cost),
            "accuracy": mean(predicted == labels),
            "mae": mean(np.abs(error)),
            "rmse": np.sqrt(mean(error**2)),
            "quadratic_kappa": 1 - _share(mean((predicted_ranks - truth) ** 2), by_chance),
        }

    return scores


def of_calibration(confidence: np.ndarray, right: np.ndarray, *, bins: int = 10) -> Weighted:
    """Expected calibration error, see ``uncertainty.calibration``, as ``calibration_error``.

    Args:
        confidence: probability of what is said, ``[N]`` or ``[N, C]`` where an image has several answers.
        right: whether it is so, of the same shape.
        bins: of equal width.

    >>> float(of_calibration(np.array([0.9, 0.9]), np.array([True, False]))(np.ones((1, 2)))["calibration_error"][0])
    0.4
    """
    answers = 1 if confidence.ndim == 1 else confidence.shape[1]
    sure, correct = confidence.reshape(-1), np.asarray(right, np.float64).reshape(-1)
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)

    def scores(weights: np.ndarray) -> Scores:
        each = np.repeat(weights, answers, axis=1)
        gaps = np.abs(_per_class(each * (sure - correct), place, bins)).sum(1)
        return {"calibration_error": gaps / each.sum(1)}

    return scores


def plain(function: Weighted, count: int) -> dict[str, float]:
    """The scores of ``count`` images that all weigh the same."""
    return {name: float(value[0]) for name, value in function(np.ones((1, count))).items()}


def intervals(
    function: Weighted, count: int, *, samples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The 95 % percentile intervals of scores over images drawn with replacement, from a fixed seed.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife" (Annals of Statistics 1979).

    Args:
        function: of the images.
        count: number of images.
        samples: number of draws.
        seed: of the draws.

    Returns:
        Both ends of each score; those that are undefined in every draw are left out.

    >>> right = np.arange(100) % 2
    >>> low, high = intervals(lambda weights: {"accuracy": weights @ right / 100}, 100)["accuracy"]
    >>> 0.39 < low < 0.42 and 0.58 < high < 0.61
    True
    """
    generator = np.random.default_rng(seed)
    rows = max(1, min(samples, _CELLS_AT_ONCE // count))
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, samples, rows):
        drawn = generator.integers(count, size=(min(rows, samples - start), count))
        places = drawn + count * np.arange(len(drawn))[:, None]
        weights = np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        for name, values in function(weights).items():
            parts.setdefault(name, []).append(values)
    ends = {}
    for name, chunks in parts.items():
        known = np.concatenate(chunks)
        known = known[~np.isnan(known)]
        if len(known):
            low, high = np.quantile(known, (0.025, 0.975))
            ends[name] = (float(low), float(high))
    return ends


def together(*functions: Weighted) -> Weighted:
    """The scores of several functions of the same images."""
    return lambda weights: {
        name: value for function in functions for name, value in function(weights).items()
    }


def of_groups(function: Weighted, groups: ArrayLike) -> Mapping[str, tuple[int, dict[str, float]]]:
    """Scores of the images of each group.

    Args:
        function: of all N images.
        groups: names, ``[N]``.

    Returns:
        ``{group: (images, scores)}`` in the order of the names.

    >>> right = np.array([1, 1, 0])
    >>> of_groups(lambda weights: {"accuracy": weights @ right / weights.sum(1)}, ["a", "b", "b"])
    {'a': (1, {'accuracy': 1.0}), 'b': (2, {'accuracy': 0.5})}
    """
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    weights = (members == np.arange(len(names))[:, None]).astype(np.float64)
    values = function(weights)
    return {
        str(name): (int(weights[place].sum()), {score: float(of[place]) for score, of in values.items()})
        for place, name in enumerate(names)
    }


class _Ranked:
    """Images in the order of a class's probability, equal ones together."""

    def __init__(self, scores: np.ndarray, targets: np.ndarray) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        self._ends = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
        self._targets = np.asarray(targets, np.float64)[self._order]

    def scores(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Area under the ROC curve and average precision, ``[S]`` each."""
        ordered = weights[:, self._order]
        hits = np.cumsum(ordered * self._targets, axis=1)[:, self._ends]
        taken = np.cumsum(ordered, axis=1)[:, self._ends]
        false = taken - hits
        before = np.zeros((len(weights), 1))
        more_hits, more_false = np.diff(hits, prepend=before), np.diff(false, prepend=before)
        area = (more_false * (hits - more_hits / 2)).sum(1)
        precision = (more_hits * hits / np.maximum(taken, np.finfo(np.float64).tiny)).sum(1)
        return _share(area, hits[:, -1] * false[:, -1]), _share(precision, hits[:, -1])


def _per_class(weights: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Weight of the images of each class, ``[S, C]``."""
    from scipy import sparse

    members = sparse.csr_array(
        (np.ones(len(classes)), (classes, np.arange(len(classes)))), shape=(count, len(classes))
    )
    return np.asarray((members @ weights.T).T)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """A quotient; NaN where there is nothing to divide by."""
    nothing = np.isclose(whole, 0, atol=1e-12)
    return np.where(nothing, np.nan, part / np.where(nothing, 1, whole))


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the classes that are defined, ``[S, C] → [S]``."""
    known = ~np.isnan(values)
    return _share(np.where(known, values, 0).sum(1), known.sum(1))
