"""Classification metrics on the host, in NumPy.

Logits are ``[N, C]``, labels and predictions are integers ``[N]`` in ``[0, C)``. Shares are in [0, 1]. Logits
may be -inf (a class ruled out), not NaN or +inf.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Share of rows whose largest logit is at the label; a tie goes to the lower class.

    Args:
      logits: ``[N, C]``.
      labels: ``[N]``.

    Raises:
      ValueError: shapes do not fit, nothing to average, a label or a logit out of range.

    Examples:
        >>> from finetune_jax import metrics
        >>> metrics.accuracy([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]], [1, 0, 0, 0])
        0.5
    """
    logits, labels = _checked(logits, labels)
    return float(np.mean(logits.argmax(axis=1) == labels))


def top_k_accuracy(logits: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Share of rows whose label is among the ``k`` largest logits; ties go to the lower class.

    ``k = 1`` is `accuracy`; a ``k`` of at least the number of classes gives 1.

    Args:
      logits: ``[N, C]``.
      labels: ``[N]``.
      k: at least 1.

    Raises:
      ValueError: as in `accuracy`, or ``k`` is below 1.

    Examples:
        >>> from finetune_jax import metrics
        >>> metrics.top_k_accuracy([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]], [1, 2], k=2)
        0.5
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    logits, labels = _checked(logits, labels)
    label_logits = np.take_along_axis(logits, labels[:, None], axis=1)
    ahead = (logits > label_logits) | (
        (logits == label_logits) & (np.arange(logits.shape[1]) < labels[:, None])
    )
    return float(np.mean(ahead.sum(axis=1) < k))


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean of ``-log softmax(logits)[label]`` in nats, computed in float64.

    A label whose logit is -inf costs infinity.

    Args:
      logits: ``[N, C]``.
      labels: ``[N]``.

    Raises:
      ValueError: as in `accuracy`, or a row holds nothing but -inf.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import metrics
        >>> round(metrics.cross_entropy(np.log([[0.5, 0.5], [0.25, 0.75]]), [0, 0]), 4)
        1.0397
    """
    logits, labels = _checked(logits, labels)
    logits = logits.astype(np.float64)
    largest = logits.max(axis=1, keepdims=True)
    if np.isneginf(largest).any():
        row = int(np.isneginf(largest[:, 0]).argmax())
        raise ValueError(f"every row of logits must hold a finite value, got only -inf in row {row}")
    shifted = logits - largest
    log_normaliser = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_normaliser - np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]))


def confusion_matrix(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> np.ndarray:
    """Counts of (label, prediction) pairs. Matrices of batches add up to the matrix of all.

    Args:
      predictions: ``[N]``.
      labels: ``[N]``.
      num_classes: ``C``.

    Returns:
      ``[C, C]`` int64: row = label, column = prediction.

    Raises:
      ValueError: shapes do not fit, or a class is out of range.

    Examples:
        >>> from finetune_jax import metrics
        >>> metrics.confusion_matrix(predictions=[0, 1, 1], labels=[0, 0, 1], num_classes=2).tolist()
        [[1, 1], [0, 1]]
    """
    predictions = _checked_classes(predictions, num_classes, "predictions")
    labels = _checked_classes(labels, num_classes, "labels")
    if predictions.shape != labels.shape:
        raise ValueError(
            f"predictions and labels must be of one length, got {len(predictions)} and {len(labels)}"
        )
    pairs = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class_recall(confusion: ArrayLike) -> np.ndarray:
    """Share of each class's images that were recognised; NaN for a class without images.

    Args:
      confusion: ``[C, C]`` of `confusion_matrix`.

    Returns:
      ``[C]`` float64.

    Raises:
      ValueError: not a square matrix.

    Examples:
        >>> from finetune_jax import metrics
        >>> metrics.per_class_recall([[3, 1], [0, 2]]).tolist()
        [0.75, 1.0]
    """
    confusion = np.asarray(confusion)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"a confusion matrix is square, got shape {confusion.shape}")
    images = confusion.sum(axis=1)
    return np.where(images > 0, np.diagonal(confusion) / np.maximum(images, 1), np.nan)


def balanced_accuracy(confusion: ArrayLike) -> float:
    """Mean of `per_class_recall` over the classes that have images.

    Args:
      confusion: ``[C, C]`` of `confusion_matrix`.

    Raises:
      ValueError: not a square matrix, or it counts no image.

    Examples:
        >>> from finetune_jax import metrics
        >>> metrics.balanced_accuracy([[3, 1], [0, 2]])
        0.875
    """
    recalls = per_class_recall(confusion)
    present = recalls[~np.isnan(recalls)]
    if not len(present):
        raise ValueError("balanced accuracy needs at least one image, got a confusion matrix of zeros")
    return float(present.mean())


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    logits = np.asarray(logits)
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"logits must be a non-empty [images, classes] array, got shape {logits.shape}")
    labels = _checked_classes(labels, logits.shape[1], "labels")
    if len(labels) != len(logits):
        raise ValueError(f"logits and labels must be of one length, got {len(logits)} and {len(labels)}")
    undefined = (np.isnan(logits) | np.isposinf(logits)).any(axis=1)
    if undefined.any():
        raise ValueError(f"logits must not be NaN or +inf, got one in row {int(undefined.argmax())}")
    return logits, labels


def _checked_classes(classes: ArrayLike, num_classes: int, name: str) -> np.ndarray:
    classes = np.asarray(classes)
    if classes.ndim != 1 or not (np.issubdtype(classes.dtype, np.integer) or classes.size == 0):
        raise ValueError(
            f"{name} must be one-dimensional integers, got {classes.dtype} of shape {classes.shape}"
        )
    outside = classes[(classes < 0) | (classes >= num_classes)]
    if outside.size:
        raise ValueError(f"{name} must lie in [0, {num_classes}), got {outside[0]}")
    return classes.astype(np.int64)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is 0 for a single value.

    Examples:
        >>> from finetune_jax import metrics
        >>> metrics.mean_and_spread([0.5, 0.75, 1.0])
        (0.75, 0.25)
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def is_tie(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Whether two means differ by no more than the larger of the two standard deviations.

    Examples:
        >>> from finetune_jax import metrics
        >>> metrics.is_tie([0.80, 0.84], [0.81, 0.85]), metrics.is_tie([0.80, 0.81], [0.90, 0.91])
        (True, False)
    """
    (a, spread_a), (b, spread_b) = mean_and_spread(ours), mean_and_spread(theirs)
    return abs(a - b) <= max(spread_a, spread_b)
