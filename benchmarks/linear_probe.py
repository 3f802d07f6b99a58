"""A linear classifier of features, and how strongly its weights should be held."""

import numpy as np

_PENALTIES = tuple(float(penalty) for penalty in np.geomspace(1e-4, 1.0, 9))


def logistic(
    features: np.ndarray, labels: np.ndarray, num_classes: int, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression.

    Minimises the mean cross-entropy plus half the penalty times the squared weights, of standardised features.

    Args:
        features: ``[N, D]``.
        labels: int ``[N]``, below ``num_classes``; classes may be missing.
        num_classes: C.
        penalty: above 0.

    Returns:
        ``(kernel [D, C], bias [C])`` of the features as they come, float32.

    Examples:
        >>> import numpy as np
        >>> features, labels = np.array([[0.0], [0.2], [0.8], [1.0]]), np.array([0, 0, 1, 1])
        >>> kernel, bias = logistic(features, labels, 2, penalty=0.01)
        >>> (features @ kernel + bias).argmax(axis=1).tolist()
        [0, 0, 1, 1]
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    deviation = np.where(deviation > 0, deviation, 1.0)
    x = (features - mean) / deviation
    images, size = x.shape
    wanted = np.eye(num_classes)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = flat[:-num_classes].reshape(size, num_classes), flat[-num_classes:]
        logs = log_softmax(x @ kernel + bias, axis=1)
        errors = (np.exp(logs) - wanted) / images
        gradient = np.concatenate([(x.T @ errors + penalty * kernel).ravel(), errors.sum(axis=0)])
        return float(-(wanted * logs).sum() / images + penalty / 2 * np.square(kernel).sum()), gradient

    start = np.zeros((size + 1) * num_classes)
    parameters = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    kernel = parameters[:-num_classes].reshape(size, num_classes) / deviation[:, None]
    bias = parameters[-num_classes:] - mean @ kernel
    return kernel.astype(np.float32), bias.astype(np.float32)


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
