"""Labels that are probably wrong, from what a network says of images that it was not trained on.

Confident learning: Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels" (Journal
of Artificial Intelligence Research 70, 2021). A class's threshold is the mean probability of that class over the images
labelled with it; an image counts among the classes whose thresholds its probabilities reach, and is suspected where the
likeliest of these is not its label.
"""

from typing import NamedTuple

import numpy as np


class Suspects(NamedTuple):
    """Images whose labels are suspected, the most suspicious first.

    Attributes:
        places: int ``[M]``, places among the images.
        suggested: int ``[M]``, the class that each probably is of.
        margins: ``[M]``, probability of the suggested class less that of the label.
    """

    places: np.ndarray
    suggested: np.ndarray
    margins: np.ndarray


def suspects(probabilities: np.ndarray, labels: np.ndarray, *, at_least: float = 0.0) -> Suspects:
    """The suspected labels of Northcutt et al., section 3.1, ordered by the normalised margin.

    Args:
        probabilities: ``[N, C]`` of images that the network has not been trained on: of training images it has learned
            the wrong labels too.
        labels: int ``[N]`` in ``0 … C-1``.
        at_least: probability that the suggested class must have; the paper asks for none, and then a network that knows
            little suspects nearly all that it gets wrong.

    Returns:
        None of a class with a single image, whose threshold is its own probability, and none where another class is
        less likely than the label.

    Raises:
        ValueError: shapes do not fit, or a label is no column.

    Examples:
        >>> chances = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.95, 0.05], [0.3, 0.7]])
        >>> candidates = suspects(chances, np.array([0, 0, 1, 1, 1]))
        >>> candidates.places.tolist(), candidates.suggested.tolist()
        ([3], [0])
    """
    chances = np.asarray(probabilities, np.float64)
    labels = np.asarray(labels)
    if chances.ndim != 2 or labels.shape != chances.shape[:1]:
        raise ValueError(
            f"probabilities must be [N, C] and labels [N], got {list(chances.shape)} and {list(labels.shape)}"
        )
    if labels.size and not (labels.min() >= 0 and labels.max() < chances.shape[1]):
        raise ValueError(f"labels must be 0 … {chances.shape[1] - 1}")
    counts = np.bincount(labels, minlength=chances.shape[1])
    label_probabilities = chances[np.arange(len(labels)), labels]
    # Nothing reaches the threshold of a class without images.
    thresholds = np.full(chances.shape[1], np.inf)
    sums = np.bincount(labels, weights=label_probabilities, minlength=chances.shape[1])
    thresholds[counts > 0] = sums[counts > 0] / counts[counts > 0]
    confident = np.where(chances >= thresholds, chances, -1.0)
    likeliest = confident.argmax(1)
    largest = confident.max(1, initial=-1.0)
    places = np.flatnonzero(
        (largest >= max(at_least, 0.0)) & (likeliest != labels) & (largest > label_probabilities)
    )
    margins = largest[places] - label_probabilities[places]
    order = np.argsort(-margins, kind="stable")
    return Suspects(places[order], likeliest[places][order], margins[order])
