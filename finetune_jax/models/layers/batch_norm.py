"""Batch normalisation with what usually follows it, and its gradient.

The gradient is written down instead of derived, for two reasons. It needs two sums over the pixels of all images, the
outputs and the inputs, and nothing else. And in bfloat16, XLA on CPU stores what several sums read a second time, in
float32, and that costs more than the sums (measured in docs/lab/performance.md); here each sum reads for itself.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from finetune_jax.models.layers.convolution import runs_on_cpu
from finetune_jax.models.layers.onednn.descriptions import Activation

Statistics = tuple[jax.Array, jax.Array]
_Normalised = tuple[jax.Array, Statistics]


def at_least_float32(x: jax.Array) -> jnp.dtype:
    """Type for sums over ``x``: float32 of half precision, float64 of float64."""
    return jnp.promote_types(x.dtype, jnp.float32)


def affine(statistics: Statistics, scale: jax.Array, bias: jax.Array, epsilon: float) -> Statistics:
    """Factor and offset ``[C]`` that normalise by mean and variance ``[C]``, then scale and shift."""
    mean, var = statistics
    factor = jax.lax.rsqrt(var + epsilon) * scale
    return factor, bias - mean * factor


def finish(
    activation: Activation, x: jax.Array, factor: jax.Array, offset: jax.Array, *residual: jax.Array
) -> jax.Array:
    """``activation(x · factor + offset [+ residual])``, computed in float32 and stored in the type of ``x``."""
    wide = at_least_float32(x)
    y = x.astype(wide) * factor + offset
    for other in residual:
        y = y + other.astype(wide)
    if activation != "none":
        y = jax.nn.relu(y)
    if activation == "relu6":
        y = jnp.where(y >= 6.0, 6.0, y)  # whose derivative at 6 is 0, as in PyTorch
    return y.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def normalise(
    activation: Activation,
    epsilon: float,
    axis_name: str | None,
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *residual: jax.Array,
) -> _Normalised:
    """Normalise by the statistics of the batch itself, then :func:`finish`.

    Args:
        activation: what follows. Its derivative is that at the stored result, 0 where ReLU6 has rounded to 6.
        epsilon: added to the variance.
        axis_name: mapped axis whose replicas share their statistics, or None.
        x: ``[..., C]``.
        scale: ``[C]``.
        bias: ``[C]``.
        residual: like ``x``, at most one.

    Returns:
        The result, like ``x``, and mean and biased variance ``[C]``, through which no gradient flows.
    """
    return _forward(activation, epsilon, axis_name, x, scale, bias, *residual)[0]


def _statistics(x: jax.Array, axis_name: str | None) -> Statistics:
    axes = tuple(range(x.ndim - 1))
    moments = jnp.stack([_wide(x, 0).mean(axes), (_wide(x, 1) * _wide(x, 1)).mean(axes)])
    if axis_name is not None:
        moments = jax.lax.pmean(moments, axis_name)
    mean, mean_of_squares = moments
    return mean, jnp.maximum(mean_of_squares - jnp.square(mean), 0.0)


def _wide(x: jax.Array, use: int) -> jax.Array:
    """In the type of sums, for one use alone, each with a number of its own.

    XLA on CPU would take equal conversions for one, and store it because several programs read it.
    """
    wide = at_least_float32(x)
    if x.dtype != wide and runs_on_cpu():
        x, _ = jax.lax.optimization_barrier((x, jnp.int32(use)))
    return x.astype(wide)


def _forward(
    activation: Activation,
    epsilon: float,
    axis_name: str | None,
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *residual: jax.Array,
) -> tuple[_Normalised, Any]:
    # Second derivatives do flow through the statistics, which are saved.
    statistics = _statistics(x, axis_name)
    y = finish(activation, x, *affine(statistics, scale, bias, epsilon), *residual)
    return (y, statistics), (x, y, scale, statistics, len(residual))


def _backward(
    activation: Activation, epsilon: float, axis_name: str | None, saved: Any, cotangents: _Normalised
) -> tuple[jax.Array, ...]:
    x, y, scale, (mean, var), residuals = saved
    gradient, _ = cotangents
    if activation == "relu":
        gradient = jnp.where(y > 0, gradient, 0)
    elif activation == "relu6":
        gradient = jnp.where((y > 0) & (y < 6), gradient, 0)
    axes = tuple(range(x.ndim - 1))
    inverse = jax.lax.rsqrt(var + epsilon)
    by_bias = _wide(gradient, 2).sum(axes)
    by_scale = inverse * ((_wide(gradient, 3) * _wide(x, 3)).sum(axes) - mean * by_bias)
    # Of the mean and the variance of the batch, which each pixel changes a little.
    count = x.size // x.shape[-1]
    common = jnp.stack([by_bias, by_scale]) / count
    if axis_name is not None:
        common = jax.lax.pmean(common, axis_name)
    factor = scale * inverse
    slope = -factor * inverse * common[1]
    offset = -factor * common[0] - slope * mean
    by_x = _wide(gradient, 4) * factor + _wide(x, 4) * slope + offset
    by_scale, by_bias = by_scale.astype(scale.dtype), by_bias.astype(scale.dtype)
    return (by_x.astype(x.dtype), by_scale, by_bias, *[gradient] * residuals)


normalise.defvjp(_forward, _backward)
