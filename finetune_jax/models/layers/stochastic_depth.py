"""Stochastic depth: in training, a block's branch is left out at random, for each example by itself.

Source: Huang et al., "Deep Networks with Stochastic Depth" (ECCV 2016), the rate rising linearly with depth. What is
left out differs from example to example, and what is not is scaled up, so that evaluation needs no scaling.

The network hands a block in training mode its rate and the keys of the examples in the collection :data:`COLLECTION`,
so that blocks of different rates are the same module and compile once.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

COLLECTION = "drop_path"
"""Name of the collection with ``keys [B]`` and ``rate []``."""


def rates(highest: float, blocks: int) -> tuple[float, ...]:
    """Of each block: from 0 in the first, linearly to ``highest`` in the last."""
    return tuple(highest * index / max(blocks - 1, 1) for index in range(blocks))


def drops(module: nn.Module) -> bool:
    """Whether branches of the block are left out at random where it is run."""
    return module.has_variable(COLLECTION, "keys")


def residual(module: nn.Module, x: jax.Array, branch: jax.Array, number: int = 0) -> jax.Array:
    """``x + branch``, the branch left out of some examples in training.

    Args:
        module: the block; its collection says how many and which.
        x: ``[B, …]``.
        branch: likewise.
        number: of the branch in its block; each is left out by itself.
    """
    if not drops(module):
        return x + branch
    keys: jax.Array = module.get_variable(COLLECTION, "keys")
    rate: jax.Array = module.get_variable(COLLECTION, "rate")
    keep = 1 - rate
    kept = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, number), keep))(keys)
    factor = jnp.where(kept, 1 / keep, 0).astype(branch.dtype)
    return x + branch * factor.reshape(-1, *[1] * (branch.ndim - 1))


def example_keys(key: jax.Array, examples: int, part: int) -> jax.Array:
    """Keys ``[examples]`` of one part, from one key for all of them or from keys ``[examples]``.

    Raises:
        ValueError: so many keys as neither.
    """
    keys = jax.random.split(key, examples) if key.ndim == 0 else key
    if keys.shape != (examples,):
        raise ValueError(f"rngs['drop_path'] must be one key or {examples}, one per image, not {keys.shape}")
    return jax.vmap(jax.random.fold_in, (0, None))(keys, part)


def collection(rate: float, keys: jax.Array) -> dict[str, dict[str, jax.Array]]:
    """What :func:`residual` looks for."""
    return {COLLECTION: {"keys": keys, "rate": jnp.float32(rate)}}
