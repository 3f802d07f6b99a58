"""Losses: of single examples (one value each, so that weights and masks are the caller's) and of whole batches."""

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms.retrieval import normalise


def cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy in nats.

    Args:
        logits: ``[B, C]``.
        labels: ``[B]`` integers in ``[0, C)``.
        label_smoothing: share of the target spread evenly over all classes.

    Returns:
        ``[B]``, of the dtype of the logits.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import losses
        >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
        >>> round(float(losses.cross_entropy(logits, jnp.array([1]))[0]), 4)
        1.3863
    """
    log_probabilities = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    if not label_smoothing:
        return -picked
    return -(1 - label_smoothing) * picked - label_smoothing * log_probabilities.mean(1)


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Softmax cross-entropy in nats with probabilities as targets.

    Args:
        logits: ``[B, C]``.
        targets: ``[B, C]``, rows that sum to 1.

    Returns:
        ``[B]``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import losses
        >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
        >>> round(float(losses.soft_cross_entropy(logits, jnp.array([[0.5, 0.5, 0.0]]))[0]), 4)
        1.0397
    """
    return -(targets * jax.nn.log_softmax(logits)).sum(-1)


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over the classes of the sigmoid cross-entropies in nats: every class is a question of its own.

    As timm's ``BinaryCrossEntropy``; Wightman et al., "ResNet strikes back" (2021), section 4.1.

    Args:
        logits: ``[B, C]``.
        targets: ``[B, C]``, each in [0, 1].

    Returns:
        ``[B]``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import losses
        >>> round(float(losses.binary_cross_entropy(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]]))[0]), 4)
        0.6931
    """
    positive = jax.nn.log_sigmoid(logits)
    return -(targets * positive + (1 - targets) * (positive - logits)).mean(-1)


def focal(logits: jax.Array, targets: jax.Array, gamma: float = 2.0) -> jax.Array:
    """Softmax cross-entropy, of which well classified examples count little: ``-Σ t (1 - p)^γ log p``.

    Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), Eq. 4, with a softmax in place of the sigmoid;
    ``gamma`` 0 is the cross-entropy.

    Args:
        logits: ``[B, C]``.
        targets: ``[B, C]``, rows that sum to 1.
        gamma: at least 0.

    Returns:
        ``[B]``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import losses
        >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
        >>> round(float(losses.focal(logits, jnp.array([[1.0, 0.0, 0.0]]), gamma=2.0)[0]), 4)
        0.1733
    """
    log_probabilities = jax.nn.log_softmax(logits)
    # 1 - p, exact where p is almost 1; its power has no gradient at 0 but for whole exponents.
    rest = jnp.maximum(-jnp.expm1(log_probabilities), jnp.finfo(logits.dtype).tiny)
    return -(targets * rest**gamma * log_probabilities).sum(-1)


def binary_focal(logits: jax.Array, targets: jax.Array, gamma: float = 2.0) -> jax.Array:
    """:func:`binary_cross_entropy`, of which questions that are well answered count little.

    Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), Eq. 4 without its class weights, as a mean over the
    classes; ``gamma`` 0 is the binary cross-entropy.

    Args:
        logits: ``[B, C]``.
        targets: ``[B, C]``, each in [0, 1].
        gamma: at least 0.

    Returns:
        ``[B]``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import losses
        >>> round(float(losses.binary_focal(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]]))[0]), 4)
        0.1733
    """
    positive, negative = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    of_positive = targets * jnp.exp(gamma * negative) * positive
    return -(of_positive + (1 - targets) * jnp.exp(gamma * positive) * negative).mean(-1)


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over the numbers of an image of their squared errors, ``[B, D], [B, D] → [B]``.

    >>> import jax.numpy as jnp
    >>> from finetune_jax import losses
    >>> losses.squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])).tolist()
    [2.0]
    """
    return jnp.square(outputs - targets).mean(-1)


def absolute_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over the numbers of an image of their absolute errors, ``[B, D], [B, D] → [B]``.

    >>> import jax.numpy as jnp
    >>> from finetune_jax import losses
    >>> losses.absolute_error(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])).tolist()
    [1.0]
    """
    return jnp.abs(outputs - targets).mean(-1)


def huber(outputs: jax.Array, targets: jax.Array, delta: float = 1.0) -> jax.Array:
    """Half the squared error up to ``delta`` and a straight line beyond, mean over the numbers, ``[B, D] → [B]``.

    Huber, "Robust Estimation of a Location Parameter" (1964).

    >>> import jax.numpy as jnp
    >>> from finetune_jax import losses
    >>> losses.huber(jnp.array([[0.5, 3.0]]), jnp.array([[0.0, 0.0]])).tolist()
    [1.3125]
    """
    error = jnp.abs(outputs - targets)
    near = jnp.minimum(error, delta)
    return (0.5 * near**2 + delta * (error - near)).mean(-1)


def balanced_class_weights(counts: np.ndarray, power: float = 1.0) -> np.ndarray:
    """Weights of the classes, inverse to their frequencies to a power; 1 on average over the images.

    Args:
        counts: ``[C]``, images per class; classes without any get the weight 0.
        power: 1 gives every class the same influence, 0 every image, 0.5 (Mahajan et al., ECCV 2018) lies between.

    Returns:
        float32 ``[C]``.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import losses
        >>> [round(float(weight), 3) for weight in losses.balanced_class_weights(np.array([60, 20]))]
        [0.667, 2.0]
    """
    present = counts > 0
    weights = np.zeros(len(counts), np.float32)
    share = counts[present] ** float(power)
    weights[present] = counts.sum() / (share * (counts[present] / share).sum())
    return weights


def proxy_anchor(
    embeddings: jax.Array, labels: jax.Array, proxies: jax.Array, margin: float = 0.1, alpha: float = 32.0
) -> jax.Array:
    """Proxy-Anchor loss of a batch: proxies pull their own examples, the hard ones most, and push all others.

    Kim et al., "Proxy Anchor Loss for Deep Metric Learning" (CVPR 2020), Eq. 4: with the cosine similarity
    ``s`` of example and proxy, the mean of ``log(1 + Σ exp(−alpha·(s − margin)))`` over the proxies that have
    examples in the batch, plus the mean of ``log(1 + Σ exp(alpha·(s + margin)))`` over all proxies; the sums
    run over the examples of the proxy's class, and over those of all other classes.

    Args:
        embeddings: ``[B, D]``, of any length.
        labels: ``[B]`` integers in ``[0, C)``.
        proxies: ``[C, D]``, one per class, of any length.
        margin: similarity ± ``margin`` is aimed at.
        alpha: scale of the similarities.

    Returns:
        ``[]``, not negative; float64 for float64, else float32.

    Raises:
        ValueError: shapes do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> from finetune_jax import losses
        >>> proxies = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> at_their_proxies = losses.proxy_anchor(proxies, jnp.array([0, 1]), proxies)
        >>> at_the_others = losses.proxy_anchor(proxies, jnp.array([1, 0]), proxies)
        >>> bool(at_their_proxies < 4 < at_the_others)
        True
    """
    if embeddings.ndim != 2 or proxies.ndim != 2 or embeddings.shape[1] != proxies.shape[1]:
        raise ValueError(
            f"embeddings [B, D] and proxies [C, D] must agree in D, got {embeddings.shape} and {proxies.shape}"
        )
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"there must be one label per embedding, got {labels.shape} for {embeddings.shape}")
    # Full precision: an error of the similarity counts ``alpha`` times.
    similarities = jnp.matmul(
        normalise(embeddings), normalise(proxies).T, precision=jax.lax.Precision.HIGHEST
    )
    positive = labels[:, None] == jnp.arange(len(proxies))
    pull = _log_one_plus_sum_exp(-alpha * (similarities - margin), positive)
    push = _log_one_plus_sum_exp(alpha * (similarities + margin), ~positive)
    # A proxy without examples has the pull log(1 + 0) = 0.
    return pull.sum() / jnp.maximum(positive.any(0).sum(), 1) + push.mean()


def _log_one_plus_sum_exp(x: jax.Array, where: jax.Array) -> jax.Array:
    """``log(1 + Σ exp(x))`` over the first axis, without overflow, and exact where the sum is tiny."""
    x = jnp.where(where, x, -jnp.inf)
    shift = jax.lax.stop_gradient(jnp.maximum(x.max(0), 0))
    return shift + jnp.log1p(jnp.expm1(-shift) + jnp.exp(x - shift).sum(0))
