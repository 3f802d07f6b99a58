"""Normalisation of the last axis, and its gradient.

The gradient is written down instead of derived: it needs two sums over the last axis and two over all others, and of
the forward pass only the inputs and two numbers of each row.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from finetune_jax.models.layers.batch_norm import at_least_float32


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def layer_norm(epsilon: float, x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """``x [..., C]`` with mean 0 and variance 1 along its last axis, times ``scale [C]``, plus ``bias [C]``.

    The result, like ``x``, is computed in at least float32.
    """
    return _forward(epsilon, x, scale, bias)[0]


def _forward(
    epsilon: float, x: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    wide = x.astype(at_least_float32(x))
    mean = wide.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + epsilon)
    y = (wide - mean) * (inverse * scale) + bias
    return y.astype(x.dtype), (x, mean, inverse, scale)


def _backward(epsilon: float, saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[Any, ...]:
    x, mean, inverse, scale = saved
    normalised = (x.astype(mean.dtype) - mean) * inverse
    gradient = gradient.astype(mean.dtype)
    others = tuple(range(x.ndim - 1))
    by_scale, by_bias = (gradient * normalised).sum(others), gradient.sum(others)
    scaled = gradient * scale
    along = (scaled * normalised).mean(-1, keepdims=True)
    by_x = inverse * (scaled - scaled.mean(-1, keepdims=True) - normalised * along)
    return by_x.astype(x.dtype), by_scale.astype(scale.dtype), by_bias.astype(scale.dtype)


layer_norm.defvjp(_forward, _backward)
