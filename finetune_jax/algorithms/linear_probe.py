"""A linear classifier of features, and how strongly its weights should be held.

NumPy on the host, in double precision.
"""

import numpy as np

_PENALTIES = tuple(float(penalty) for penalty in np.geomspace(1e-3, 10.0, 5))


def logistic(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    penalty: float,
    *,
    in_proportion: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression.

    Minimises the mean cross-entropy plus half the penalty times the squared weights, of standardised features.

    Args:
        features: ``[N, D]``.
        labels: int ``[N]``, below ``num_classes``; classes may be missing.
        num_classes: C.
        penalty: above 0.
        in_proportion: features are divided by one number for all instead of each by its deviation, so that those
            that hardly differ between images get no large weights.

    Returns:
        ``(kernel [D, C], bias [C])`` of the features as they come, float32.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax.algorithms.linear_probe import logistic
        >>> features, labels = np.array([[0.0], [0.2], [0.8], [1.0]]), np.array([0, 0, 1, 1])
        >>> kernel, bias = logistic(features, labels, 2, penalty=0.01)
        >>> (features @ kernel + bias).argmax(axis=1).tolist()
        [0, 0, 1, 1]
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    if in_proportion:
        deviation = np.full_like(deviation, np.sqrt(np.square(deviation).mean()))
    deviation = np.where(deviation > 0, deviation, 1.0)
    x = (features - mean) / deviation
    images, size = x.shape
    targets = np.eye(num_classes)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = flat[:-num_classes].reshape(size, num_classes), flat[-num_classes:]
        logs = log_softmax(x @ kernel + bias, axis=1)
        errors = (np.exp(logs) - targets) / images
        gradient = np.concatenate([(x.T @ errors + penalty * kernel).ravel(), errors.sum(axis=0)])
        return float(-(targets * logs).sum() / images + penalty / 2 * np.square(kernel).sum()), gradient

    start = np.zeros((size + 1) * num_classes)
    parameters = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    kernel = parameters[:-num_classes].reshape(size, num_classes) / deviation[:, None]
    bias = parameters[-num_classes:] - mean @ kernel
    return kernel.astype(np.float32), bias.astype(np.float32)


def chosen(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    other_features: np.ndarray,
    other_labels: np.ndarray,
    *,
    in_proportion: bool = False,
) -> tuple[float, float, tuple[np.ndarray, np.ndarray]]:
    """The classifier of :func:`logistic` that is best on other images, of the penalties from 0.001 to 10.

    Args:
        features: ``[N, D]``.
        labels: int ``[N]``.
        num_classes: C.
        other_features: ``[M, D]``, by which the penalty is chosen.
        other_labels: int ``[M]``.
        in_proportion: see :func:`logistic`.

    Returns:
        ``(mean cross-entropy of the other images, penalty, (kernel, bias))``.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax.algorithms.linear_probe import chosen
        >>> features, labels = np.array([[0.0], [0.2], [0.8], [1.0]]), np.array([0, 0, 1, 1])
        >>> loss, penalty, _ = chosen(features, labels, 2, features, labels)
        >>> loss < 0.1, penalty
        (True, 0.001)
    """
    from scipy.special import log_softmax

    fits = []
    for penalty in _PENALTIES:
        head = logistic(features, labels, num_classes, penalty, in_proportion=in_proportion)
        logs = log_softmax(other_features @ head[0] + head[1], axis=1)
        fits.append((float(-logs[np.arange(len(other_labels)), other_labels].mean()), penalty, head))
    return min(fits, key=lambda of_penalty: of_penalty[0])
