"""Which test images are worth looking at: confident mistakes, and right answers that nearly were none."""

from typing import NamedTuple

import numpy as np

MISTAKES, UNSURE = 12, 6
"""How many a report shows."""


class Notable(NamedTuple):
    """Places of test images.

    Attributes:
        mistakes: wrong predictions, the most confident first.
        unsure: right predictions, the least probable first.
    """

    mistakes: np.ndarray
    unsure: np.ndarray


def notable(
    logits: np.ndarray, labels: np.ndarray, *, mistakes: int = MISTAKES, unsure: int = UNSURE
) -> Notable:
    """The most confident mistakes and the least sure right predictions.

    Args:
        logits: ``[N, C]``.
        labels: ``[N]``.
        mistakes: at most so many.
        unsure: at most so many.

    >>> chosen = notable(np.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), np.array([1, 0, 1]))
    >>> chosen.mistakes.tolist(), chosen.unsure.tolist()
    ([0], [1, 2])
    """
    chances = probabilities(logits)
    predicted, confidence = chances.argmax(1), chances.max(1)
    wrong, right = np.flatnonzero(predicted != labels), np.flatnonzero(predicted == labels)
    return Notable(
        wrong[np.argsort(-confidence[wrong], kind="stable")][:mistakes],
        right[np.argsort(confidence[right], kind="stable")][:unsure],
    )


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax of ``[N, C]`` in float64."""
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
