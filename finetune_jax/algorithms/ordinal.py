"""Ordered grades as a chain of questions: is the grade above k, given that it is at least k?

The continuation-ratio model: with ``s_k = sigmoid(logits_k)`` the grade c of K has the probability
``s_0 s_1 … s_{c−1} (1 − s_c)``, so the probabilities add up to 1 and are consistent in their order whatever the logits.
Its likelihood is the loss of Shi, Cao and Raschka, "Deep Neural Networks for Rank-Consistent Ordinal Regression Based
On Conditional Probabilities" (2021), summed over the questions that an example answers.
"""

import jax
import jax.numpy as jnp


def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats.

    Args:
        logits: ``[B, K − 1]``.
        labels: int ``[B]`` in ``[0, K)``, or probabilities of the grades ``[B, K]``.

    Returns:
        ``[B]``.

    >>> import numpy as np
    >>> np.round(loss(jnp.zeros((3, 2)), jnp.array([0, 1, 2])), 3).tolist()
    [0.6930000185966492, 1.3860000371932983, 1.3860000371932983]
    """
    grades = logits.shape[-1] + 1
    shares = labels if labels.ndim == 2 else jax.nn.one_hot(labels, grades, dtype=logits.dtype)
    above = jnp.cumsum(shares[:, ::-1], axis=1)[:, ::-1][:, 1:]
    here = shares[:, :-1]
    return -(above * jax.nn.log_sigmoid(logits) + here * jax.nn.log_sigmoid(-logits)).sum(-1)


def probabilities(logits: jax.Array) -> jax.Array:
    """Probabilities of the grades, ``[B, K − 1] → [B, K]``.

    >>> probabilities(jnp.zeros((1, 2))).tolist()
    [[0.5, 0.25, 0.25]]
    """
    steps = jax.nn.sigmoid(logits)
    left = jnp.ones_like(steps[:, :1])
    columns = []
    for question in range(logits.shape[1]):
        step = steps[:, question : question + 1]
        columns.append(left * (1 - step))
        left = left * step
    return jnp.concatenate([*columns, left], axis=1)
