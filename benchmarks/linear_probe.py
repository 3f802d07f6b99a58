"""How strongly the weights of a probe should be held, by a finer search than the package's: of a rejected idea."""

import numpy as np

from finetune_jax.algorithms.linear_probe import logistic

_PENALTIES = tuple(float(penalty) for penalty in np.geomspace(1e-4, 1.0, 9))


def chosen_penalty(features: np.ndarray, labels: np.ndarray, num_classes: int, held_out: np.ndarray) -> float:
    """The penalty of :func:`logistic` with which the held-out images have the lowest mean cross-entropy.

    Args:
        features: ``[N, D]``.
        labels: int ``[N]``.
        num_classes: C.
        held_out: indices of those that the classifiers are not fitted to.

    Examples:
        >>> import numpy as np
        >>> features, labels = np.array([[0.0], [0.2], [0.8], [1.0]]), np.array([0, 0, 1, 1])
        >>> round(chosen_penalty(features, labels, 2, np.array([1, 2])), 6)
        0.0001
    """
    from scipy.special import log_softmax

    others = np.delete(np.arange(len(labels)), held_out)

    def loss(penalty: float) -> float:
        kernel, bias = logistic(features[others], labels[others], num_classes, penalty)
        logs = log_softmax(features[held_out] @ kernel + bias, axis=1)
        return float(-logs[np.arange(len(held_out)), labels[held_out]].mean())

    return min(_PENALTIES, key=loss)
