"""How well frozen features suit a task, in seconds: LogME, and probes by ridge regression and by neighbours.

NumPy on the host. Features are those of a pretrained network, one row per image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""``(features [N, D], labels [N], features of other images [M, D]) → labels of these [M]``."""

_PENALTIES = np.logspace(-1, 5, 7)
_ITERATIONS, _TOLERANCE, _SMALLEST = 500, 1e-9, 1e-12


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    """Logarithm of the maximum evidence per image, the mean over the classes; larger is better.

    For each class a Bayesian linear model of its 0/1 labels: weights ``w ~ N(0, I/α)``, labels ``y ~ N(F w, I/β)``.
    The evidence ``p(y | F, α, β)`` is maximised over both precisions by the fixed point ``α = γ / ‖m‖²``,
    ``β = (N − γ) / ‖F m − y‖²``, here in the coordinates of the singular vectors of ``F``.

    Source: You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer Learning" (ICML 2021), Eq. 2
    and Algorithm 1.

    Args:
        features: ``[N, D]``.
        labels: ``[N]`` integers; classes without images do not count.

    Raises:
        ValueError: shapes do not fit, or there are fewer than two classes.

    >>> good = logme([[1.0, 0.0], [0.9, 0.1], [0.1, 1.0], [0.0, 0.8]], [0, 0, 1, 1])
    >>> good > logme([[1.0, 0.0], [0.1, 1.0], [0.9, 0.1], [0.0, 0.8]], [0, 0, 1, 1])
    True
    """
    features, labels = _checked(features, labels)
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    squares = singular**2
    evidences = []
    for label in np.unique(labels):
        target = (labels == label).astype(np.float64)
        evidences.append(_maximum_evidence(squares, left.T @ target, target @ target, *features.shape))
    return float(np.mean(evidences))


def _maximum_evidence(
    squares: np.ndarray, projected: np.ndarray, norm: float, images: int, size: int
) -> float:
    """Of one target, divided by the number of images.

    Args:
        squares: ``[K]``, squared singular values of the features.
        projected: ``[K]``, the target in the left singular vectors.
        norm: squared norm of the target.
        images: ``N``.
        size: ``D``.
    """
    outside = max(norm - float(projected @ projected), 0.0)

    def fitted(alpha: float, beta: float) -> tuple[float, float]:
        """Squared norms of the mean weights and of the residual."""
        ratio = alpha / beta
        weights = float(np.sum(squares * projected**2 / (ratio + squares) ** 2))
        residual = float(np.sum((ratio / (ratio + squares) * projected) ** 2)) + outside
        return max(weights, _SMALLEST), max(residual, _SMALLEST * norm)

    alpha = beta = 1.0
    for _ in range(_ITERATIONS):
        weights, residual = fitted(alpha, beta)
        determined = float(np.sum(beta * squares / (alpha + beta * squares)))
        before = alpha, beta
        alpha = max(determined, _SMALLEST) / weights
        beta = max(images - determined, _SMALLEST) / residual
        if max(abs(math.log(alpha / before[0])), abs(math.log(beta / before[1]))) < _TOLERANCE:
            break
    weights, residual = fitted(alpha, beta)
    determinant = float(np.sum(np.log(alpha + beta * squares))) + (size - len(squares)) * math.log(alpha)
    evidence = (
        images * math.log(beta)
        + size * math.log(alpha)
        - images * math.log(2 * math.pi)
        - beta * residual
        - alpha * weights
        - determinant
    ) / 2
    return evidence / images


def ridge_predictions(features: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Classes by ridge regression on standardised features, the penalty chosen by leaving one image out.

    The linear probe that needs no rate: by ``RidgeClassifierCV`` of scikit-learn.

    Args:
        features: ``[N, D]``.
        labels: ``[N]`` integers.
        others: ``[M, D]``.

    Returns:
        Labels ``[M]``.

    >>> ridge_predictions(np.array([[0.0], [0.1], [0.9], [1.0]]), np.array([0, 0, 1, 1]), np.array([[0.2], [0.7]]))
    array([0, 1])
    """
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(labels)) == 1:
        return np.full(len(others), labels[0])
    probe = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=_PENALTIES))
    return np.asarray(probe.fit(features, labels).predict(others))


def neighbour_predictions(features: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Classes by the vote of the five nearest images, by cosine, nearer ones counting more.

    Args:
        features: ``[N, D]``.
        labels: ``[N]`` integers.
        others: ``[M, D]``.

    Returns:
        Labels ``[M]``.

    >>> features, labels = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), np.array([0, 0, 1])
    >>> neighbour_predictions(features, labels, np.array([[1.0, 0.1], [0.1, 1.0]]))
    array([0, 1])
    """
    from sklearn.neighbors import KNeighborsClassifier

    probe = KNeighborsClassifier(min(5, len(labels)), metric="cosine", weights="distance")
    return np.asarray(probe.fit(features, labels).predict(others))


def cross_validated(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, predict: Predict
) -> np.ndarray:
    """The label of every image by a probe of the images of the other folds.

    Args:
        features: ``[N, D]``.
        labels: ``[N]`` integers.
        folds: ``[N]``, the fold of each image.
        predict: the probe.

    Returns:
        Labels ``[N]``.

    >>> features, labels = np.array([[0.0], [0.1], [0.9], [1.0]]), np.array([0, 0, 1, 1])
    >>> cross_validated(features, labels, np.array([0, 1, 0, 1]), ridge_predictions)
    array([0, 0, 1, 1])
    """
    predictions = np.empty_like(labels)
    for fold in np.unique(folds):
        held_out = folds == fold
        predictions[held_out] = predict(features[~held_out], labels[~held_out], features[held_out])
    return predictions


def learning_curve(
    features: np.ndarray,
    labels: np.ndarray,
    others: np.ndarray,
    their_labels: np.ndarray,
    counts: Sequence[int],
    *,
    draws: int = 5,
    seed: int = 0,
) -> dict[int, list[float]]:
    """Accuracy of the ridge probe by the number of images per class that it learns from.

    Args:
        features: ``[N, D]``, to learn from.
        labels: ``[N]`` integers.
        others: ``[M, D]``, to be measured on.
        their_labels: ``[M]``.
        counts: images per class; of smaller classes all are taken.
        draws: how often images are drawn. Within a draw, fewer images are some of the more.
        seed: of the draws.

    Returns:
        ``{count: accuracy of each draw}``, in [0, 1].

    >>> features, labels = np.array([[0.0], [0.1], [0.9], [1.0]]), np.array([0, 0, 1, 1])
    >>> learning_curve(features, labels, features, labels, [1, 2], draws=2)
    {1: [1.0, 1.0], 2: [1.0, 1.0]}
    """
    generator = np.random.default_rng(seed)
    scores: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(draws):
        shuffled = {
            label: generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)
        }
        for count in counts:
            chosen = np.concatenate([order[:count] for order in shuffled.values()])
            predictions = ridge_predictions(features[chosen], labels[chosen], others)
            scores[count].append(float(np.mean(predictions == their_labels)))
    return scores


def _checked(features: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    rows, numbers = np.asarray(features, np.float64), np.asarray(labels)
    if rows.ndim != 2 or numbers.shape != rows.shape[:1]:
        raise ValueError(f"got features of shape {rows.shape} and labels of shape {numbers.shape}")
    if len(np.unique(numbers)) < 2:
        raise ValueError("there must be images of two classes at least")
    return rows, numbers
