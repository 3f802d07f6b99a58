"""SpotTune: per image and block, the fine-tuned or the frozen copy of the block.

Source: Guo et al., "SpotTune: Transfer Learning through Adaptive Fine-tuning" (CVPR 2019). Shapes: ``B``
images, ``L`` routed blocks. A decision of 1 takes the fine-tuned copy, 0 the frozen one; so does index 1 or 0
of the policy's logits.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from finetune_jax.algorithms.routing import NewStatistics as NewStatistics
from finetune_jax.algorithms.routing import apply as apply
from finetune_jax.algorithms.routing import features as features
from finetune_jax.algorithms.routing import route as route


def gumbel_softmax(noise: jax.Array, logits: jax.Array, temperature: float | jax.Array = 5.0) -> jax.Array:
    """Straight-through Gumbel-softmax over the last axis (Eq. 3 and 4).

    The value is exactly the one-hot of ``argmax(logits + noise)``, the first of equal ones. The derivative with
    respect to logits and noise is that of ``softmax((logits + noise) / temperature)``; it is finite for logits
    of any size, infinite ones included. The temperature itself gets no gradient.

    Args:
        noise: ``[..., C]``, a sample of the standard Gumbel distribution; zeros give the most likely choice.
        logits: ``[..., C]``, unnormalised log probabilities.
        temperature: τ > 0. The paper gives none, its authors' code uses 5.

    Returns:
        ``[..., C]`` of zeros and a single one.

    Raises:
        ValueError: shapes differ, or the temperature is not positive.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import spottune
        >>> spottune.gumbel_softmax(jnp.zeros((1, 2)), jnp.array([[0.5, 2.0]])).tolist()
        [[0.0, 1.0]]
        >>> jax.grad(lambda logits: spottune.gumbel_softmax(jnp.zeros(2), logits, 1.0)[1])(jnp.zeros(2)).tolist()
        [-0.25, 0.25]
    """
    noise, logits = jnp.asarray(noise), jnp.asarray(logits)
    if noise.shape != logits.shape:
        raise ValueError(f"noise has the shape {noise.shape}, logits {logits.shape}")
    if not isinstance(temperature, jax.core.Tracer) and not temperature > 0:
        raise ValueError(f"the temperature must be positive, not {temperature}")
    scores = logits + noise
    return _straight_through(scores, jnp.asarray(temperature, scores.dtype))


@jax.custom_jvp
def _straight_through(scores: jax.Array, temperature: jax.Array) -> jax.Array:
    del temperature
    return jax.nn.one_hot(scores.argmax(-1), scores.shape[-1], dtype=scores.dtype)


@_straight_through.defjvp
def _straight_through_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    scores, temperature = primals
    largest = scores.max(-1, keepdims=True)
    # Subtracting before dividing, and not subtracting infinity from itself, keeps extreme scores finite.
    below = jnp.where(scores == largest, 0, scores - largest)
    weights = jnp.exp(below / temperature)
    soft = weights / weights.sum(-1, keepdims=True)
    change = tangents[0] / temperature
    return _straight_through(scores, temperature), soft * (change - (soft * change).sum(-1, keepdims=True))


def policy_logits(flat: jax.Array) -> jax.Array:
    """Outputs ``[..., 2L]`` of a policy network as logits ``[..., L, 2]``, the two of a block side by side.

    Raises:
        ValueError: an odd number of outputs.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import spottune
        >>> spottune.policy_logits(jnp.zeros((8, 6))).shape
        (8, 3, 2)
    """
    if flat.shape[-1] % 2:
        raise ValueError(f"a policy has two outputs per block, not {flat.shape[-1]} in all")
    return flat.reshape(*flat.shape[:-1], -1, 2)


def sample_decisions(key: jax.Array, logits: jax.Array, temperature: float | jax.Array = 5.0) -> jax.Array:
    """Decisions drawn from the policy, with the straight-through gradient of :func:`gumbel_softmax`.

    Args:
        key: random key; the same key and logits give the same decisions.
        logits: ``[..., L, 2]``.
        temperature: of the gradient; the draw does not depend on it.

    Returns:
        ``[..., L]`` of exact zeros and ones, of the dtype of the logits.

    Raises:
        ValueError: logits of another shape, or a temperature that is not positive.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import spottune
        >>> logits = jnp.array([[[0.0, 50.0], [50.0, 0.0], [0.0, 50.0]]])
        >>> spottune.sample_decisions(jax.random.key(0), logits).tolist()
        [[1.0, 0.0, 1.0]]
    """
    _check_logits(logits)
    noise = jax.random.gumbel(key, logits.shape, logits.dtype)
    return gumbel_softmax(noise, logits, temperature)[..., 1]


def likely_decisions(logits: jax.Array) -> jax.Array:
    """The more likely decision of each block, ``[..., L, 2] → [..., L]``; frozen where both are equally likely.

    What prediction uses; it has no gradient.

    Raises:
        ValueError: logits of another shape.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import spottune
        >>> spottune.likely_decisions(jnp.array([[[0.0, 1.0], [2.0, 1.0], [0.0, 0.0]]])).tolist()
        [[1.0, 0.0, 0.0]]
    """
    _check_logits(logits)
    return logits.argmax(-1).astype(logits.dtype)


def _check_logits(logits: jax.Array) -> None:
    if logits.ndim < 2 or logits.shape[-1] != 2:
        raise ValueError(f"policy logits must have the shape [..., L, 2], not {logits.shape}")


def usage(decisions: jax.Array) -> jax.Array:
    """``v``: share of images that take the fine-tuned copy of each block, ``[B, L] → [L]``.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import spottune
        >>> spottune.usage(jnp.array([[1.0, 0.0], [1.0, 1.0]])).tolist()
        [1.0, 0.5]
    """
    if decisions.ndim != 2:
        raise ValueError(f"decisions must have the shape [B, L], not {decisions.shape}")
    return decisions.mean(0)


def budget_loss(usage: jax.Array, k: float | jax.Array) -> jax.Array:
    """``l_k = (Σ v_l − k)²`` (Eq. 5).

    Args:
        usage: ``[L]``, see :func:`usage`.
        k: number of blocks to fine-tune.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import spottune
        >>> float(spottune.budget_loss(jnp.array([1.0, 0.5, 0.0]), k=1))
        0.25
    """
    return (jnp.sum(jnp.asarray(usage)) - k) ** 2


def entropy_loss(usage: jax.Array) -> jax.Array:
    """``l_e = Σ −v_l log v_l`` in nats (Eq. 6), least where every share is 0 or 1.

    At ``v = 0`` the value and the gradient are 0. The true slope there is infinite and would fix for good any
    block that no image of one batch happens to use.

    Args:
        usage: ``[L]``, see :func:`usage`.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import spottune
        >>> round(float(spottune.entropy_loss(jnp.array([1.0, 0.5, 0.0]))), 4)
        0.3466
    """
    usage = jnp.asarray(usage)
    used = usage > 0
    # The inner choice keeps log(0) out of the gradient, which the outer one alone would not.
    return -jnp.sum(jnp.where(used, usage * jnp.log(jnp.where(used, usage, 1)), 0))


def most_used(usage: Mapping[str, float], k: int) -> tuple[str, ...]:
    """The ``k`` blocks that most images take from the fine-tuned copy: the global policy (section 3.3).

    Args:
        usage: ``{block: share or number of images}`` in network order.
        k: at most the number of blocks.

    Returns:
        Names in network order; of equally used blocks the later ones.

    Raises:
        ValueError: ``usage`` is an array and has no names.

    Examples:
        >>> from finetune_jax import spottune
        >>> spottune.most_used({"block_01": 0.9, "block_02": 0.1, "block_03": 0.4}, k=2)
        ('block_01', 'block_03')
    """
    if not isinstance(usage, Mapping):
        raise ValueError(
            "usage must name its blocks, as dict(zip(network.block_names, usage)) of an array [L] does, got a "
            f"{type(usage).__name__}"
        )
    names = list(usage)
    ranked = sorted(range(len(names)), key=lambda index: (-usage[names[index]], -index))
    return tuple(names[index] for index in sorted(ranked[:k]))
