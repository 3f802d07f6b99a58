"""How far a measured score can be trusted: intervals, and the calibration of probabilities. NumPy on the host."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


def wilson_interval(successes: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of independent trials.

    It stays within [0, 1] and is good for few trials and for shares near 0 and 1, where the plain normal interval is
    not.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (JASA 1927).

    Args:
        successes: how many trials succeeded, in [0, ``count``].
        count: number of trials, at least 1.

    Returns:
        Both ends of the interval.

    Raises:
        ValueError: ``count`` is below 1 or ``successes`` out of range.

    >>> low, high = wilson_interval(48, 90)
    >>> print(f"{low:.4f} {high:.4f}")
    0.4310 0.6329
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(
            f"successes must lie in [0, count] and count be at least 1, got {successes} of {count}"
        )
    share, z2 = successes / count, _Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float], count: int, *, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of any statistic of ``count`` observations.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife" (Annals of Statistics 1979).

    Args:
        statistic: takes indices ``[count]`` of observations drawn with replacement; NaN where it is undefined.
        count: number of observations, at least 1.
        samples: number of draws.
        seed: of the draws.

    Returns:
        The 2.5 % and the 97.5 % quantile of the statistic over the draws where it is defined.

    Raises:
        ValueError: there is nothing to draw from.

    >>> values = np.array([0.0, 1.0] * 50)
    >>> low, high = bootstrap_interval(lambda drawn: float(values[drawn].mean()), 100)
    >>> 0.39 < low < 0.42 and 0.58 < high < 0.61
    True
    """
    if count < 1 or samples < 1:
        raise ValueError(f"there must be observations and samples, got {count} and {samples}")
    generator = np.random.default_rng(seed)
    values = np.array([statistic(generator.integers(count, size=count)) for _ in range(samples)])
    low, high = np.nanquantile(values, (0.025, 0.975))
    return float(low), float(high)


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """How likely two classifiers differ as much as they do on the same images, if both are equally good.

    The exact test: of the images on which one alone is right, each is a fair coin.

    Source: McNemar, "Note on the Sampling Error of the Difference between Correlated Proportions" (Psychometrika
    1947).

    Args:
        first: bool ``[N]``, whether the one is right on each image.
        second: bool ``[N]``, likewise the other.

    Returns:
        The two-sided p-value, in (0, 1]; 1 where they never differ.

    Raises:
        ValueError: they are not of the same images.

    >>> mcnemar([1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0])
    0.03125
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"got results of shape {first.shape} and {second.shape}")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differing = only_first + only_second
    # Whole numbers: the powers of two of a few thousand images are no floats.
    tail = sum(math.comb(differing, count) for count in range(min(only_first, only_second) + 1))
    return min(1.0, (2 * tail) / 2**differing)


class Calibration(NamedTuple):
    """Probabilities of the predicted classes beside how often these are right, in bins of equal width.

    Attributes:
        confidence: ``[B]``, mean probability in each bin; NaN in an empty one.
        accuracy: ``[B]``, share of the bin's images that are right; NaN in an empty one.
        images: ``[B]``.
        error: expected calibration error, the mean gap between both, weighted by images.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    images: np.ndarray
    error: float


def calibration(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 10) -> Calibration:
    """How far the probabilities of the predicted classes are from the share of right predictions.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), Eq. 2 and 3.

    Args:
        probabilities: ``[N, C]``, rows that add up to 1.
        labels: ``[N]`` integers in ``[0, C)``.
        bins: number of bins of [0, 1]; a confidence at an edge belongs to the lower bin.

    Raises:
        ValueError: shapes do not fit, or there is no image.

    >>> result = calibration([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], [0, 1, 1], bins=5)
    >>> result.images.tolist(), round(result.error, 4)
    ([0, 0, 0, 2, 1], 0.2)
    """
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != (len(probabilities),) or not len(labels):
        raise ValueError(
            f"got probabilities of shape {probabilities.shape} and labels of shape {labels.shape}"
        )
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    images = np.bincount(place, minlength=bins)
    known = np.where(images > 0, images, np.nan)
    of_bin = np.bincount(place, confidence, bins) / known
    accuracy = np.bincount(place, right, bins) / known
    error = float(np.nansum(images * np.abs(accuracy - of_bin)) / len(labels))
    return Calibration(of_bin, accuracy, images, error)


def normalised_entropy(probabilities: ArrayLike, *, several: bool = False) -> np.ndarray:
    """How undecided probabilities are: 0 where one class is certain, 1 where all are equally likely.

    Args:
        probabilities: ``[N, C]``, rows that add up to 1.
        several: whether every class is a question of its own, whose uncertainties are averaged; rows need not add up.

    Returns:
        ``[N]``, entropy over its largest value.

    >>> normalised_entropy([[0.5, 0.5], [1.0, 0.0]]).tolist()
    [1.0, 0.0]
    >>> normalised_entropy([[0.5, 1.0]], several=True).tolist()
    [0.5]
    """
    chances = np.asarray(probabilities, np.float64)
    if several:
        return (
            normalised_entropy(np.stack([chances, 1 - chances], -1).reshape(-1, 2))
            .reshape(chances.shape)
            .mean(1)
        )
    positive = np.where(chances > 0, chances, 1)
    return -(positive * np.log(positive)).sum(-1) / math.log(max(2, chances.shape[-1]))
