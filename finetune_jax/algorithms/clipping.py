"""Gradient clipping, and the norms that are clipped by.

All functions take the gradients of a whole batch: with several devices they are averaged first, so that the result
does not depend on the number of devices.

    >>> import jax.numpy as jnp
    >>> gradients = {"block_01": {"kernel": jnp.array([[3.0]])}, "head": {"kernel": jnp.array([[4.0]])}}
    >>> float(global_norm(gradients))
    5.0
    >>> clipped = by_global_norm(gradients, 1.0)
    >>> round(float(clipped["head"]["kernel"][0, 0]), 3)
    0.8
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from finetune_jax.algorithms.weight_variation import Include, is_kernel

_SMALLEST_NORM = 1e-3
_SMALLEST_GRADIENT = 1e-6


def global_norm(gradients: Any, axis_name: str | None = None) -> jax.Array:
    """Euclidean norm of all leaves as one vector, ``[]``.

    Args:
        gradients: any tree.
        axis_name: of a mapped axis over which every array is cut into shares; None where they are whole.
    """
    norm = jnp.asarray(optax.tree.norm(gradients))
    return norm if axis_name is None else jnp.sqrt(jax.lax.psum(jnp.square(norm), axis_name))


def block_norms(gradients: Mapping[str, Any], axis_name: str | None = None) -> dict[str, jax.Array]:
    """``{part: norm}`` of the gradients of each part, every one ``[]``; arguments as of :func:`global_norm`."""
    return {name: global_norm(tree, axis_name) for name, tree in gradients.items()}


def by_global_norm(gradients: Any, limit: float | jax.Array, axis_name: str | None = None) -> Any:
    """Gradients whose global norm is at most ``limit``; a smaller one leaves them as they are, bit for bit.

    Pascanu et al., "On the difficulty of training recurrent neural networks" (ICML 2013), Algorithm 1.

    Args:
        gradients: any tree.
        limit: above 0; may be a traced value.
        axis_name: see :func:`global_norm`.

    Returns:
        A tree like ``gradients``.
    """
    norm = global_norm(gradients, axis_name)
    return jax.tree.map(
        lambda leaf: jnp.where(norm < limit, leaf, leaf / norm.astype(leaf.dtype) * limit), gradients
    )


def adaptive(
    gradients: Any, params: Any, ratio: float | jax.Array, *, include: Include = lambda path, leaf: True
) -> Any:
    """Adaptive gradient clipping: no unit's gradient is longer than ``ratio`` times its weights.

    Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization" (ICML 2021), Eq. 3. A unit
    of a kernel is one output: all of it but the last axis. Any other array (bias, scale, token, positions) is one
    unit. Norms of weights below 1e-3 count as 1e-3, or weights that start at zero could not grow.

    Args:
        gradients: a tree of dicts.
        params: the weights, of the same structure.
        ratio: above 0, the paper's λ; may be a traced value.
        include: which leaves are clipped; the paper leaves out the classifier.

    Returns:
        A tree like ``gradients``.
    """

    def clip(path: Any, gradient: jax.Array, weights: jax.Array) -> jax.Array:
        names = tuple(str(entry.key) for entry in path)
        if not include(names, weights):
            return gradient
        axes = tuple(range(weights.ndim - 1)) if is_kernel(names, weights) else None
        limit = ratio * jnp.maximum(_norm(weights, axes), _SMALLEST_NORM)
        norm = _norm(gradient, axes)
        clipped = gradient * (limit / jnp.maximum(norm, _SMALLEST_GRADIENT))
        return jnp.where(norm < limit, gradient, clipped)

    return jax.tree_util.tree_map_with_path(clip, gradients, params)


def _norm(array: jax.Array, axes: tuple[int, ...] | None) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(array), axis=axes, keepdims=True))
