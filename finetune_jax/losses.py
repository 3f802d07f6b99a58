"""Losses, one value per example, so that weights and masks are the caller's."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy in nats.

    Args:
        logits: ``[B, C]``.
        labels: ``[B]`` integers in ``[0, C)``.
        label_smoothing: share of the target spread evenly over all classes.

    Returns:
        ``[B]``, of the dtype of the logits.
    """
    log_probabilities = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    if not label_smoothing:
        return -picked
    return -(1 - label_smoothing) * picked - label_smoothing * log_probabilities.mean(1)
