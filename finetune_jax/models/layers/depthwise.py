"""Depthwise convolution: every channel has a kernel of its own.

XLA on CPU runs grouped convolutions slowly. Those that are worth a call go to oneDNN where that is installed; as a sum
of shifted images the others are at least ten times faster (measured in docs/methods/networks.md). Large kernels over
few pixels, as in the last blocks of ConvNeXt, are products: 49 shifts and their gradients compile for 4 s, a product
for 0.3 s, and it is as fast. Accelerators get the grouped form.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.models.layers.convolution import Pads, runs_on_cpu
from finetune_jax.models.layers.onednn import convolution as onednn
from finetune_jax.models.layers.onednn.descriptions import Convolution

# Sums of shifted images are some sixteen times slower than products over channels, so that calls pay sooner.
PRODUCTS_WORTH_A_CALL = 2**20
PIXELS_COVERED = 64
SMALL_KERNEL = 9  # taps; a sum of so few shifted images is compiled at once


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """``x [B, H, W, C]`` with ``kernel [k, k, 1, C]`` of the same dtype, ``[B, H', W', C]``."""
    convolution = call_for(x, kernel, stride, pads)
    if convolution is not None:
        return onednn.convolve(convolution, x, kernel)
    if runs_on_cpu() and _covers(x, kernel):
        return _product_over_pixels(stride, pads, x, kernel)
    if runs_on_cpu():
        return _sum_of_shifts(stride, jnp.pad(x, ((0, 0), *pads, (0, 0))), kernel)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def call_for(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> Convolution | None:
    """As :func:`finetune_jax.models.convolution.call_for`."""
    convolution = Convolution(x.shape, kernel.shape, stride, pads, groups=x.shape[-1], dtype=x.dtype.name)
    products = math.prod(convolution.outputs) * math.prod(kernel.shape[:2])
    worth_a_call = runs_on_cpu() and products >= PRODUCTS_WORTH_A_CALL
    return convolution if worth_a_call and onednn.serves(convolution, x, kernel) else None


def _covers(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether a large kernel has about as many taps as the image has pixels, so that many of them see padding."""
    return math.prod(kernel.shape[:2]) > SMALL_KERNEL and 0 < math.prod(x.shape[1:3]) <= PIXELS_COVERED


def _product_over_pixels(stride: int, pads: Pads, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One product for each channel instead of a shifted image for each tap, which would take long to compile."""
    batch, *sides, channels = x.shape
    across = [
        _seen(side, size, stride, *pad) for side, size, pad in zip(sides, kernel.shape, pads, strict=False)
    ]
    outputs = [axis.shape[1] for axis in across]
    if not all(outputs):
        return jnp.zeros((batch, *outputs, channels), x.dtype)
    # 1 where pixel (h, w) is seen by output (i, j) through tap (k, l).
    seen = np.einsum("hik,wjl->hwijkl", *across).reshape(math.prod(sides), math.prod(outputs), -1)
    weights = kernel[:, :, 0].astype(_wide(kernel)).reshape(-1, channels)
    matrix = jnp.einsum("pqk,kc->pqc", jnp.asarray(seen, weights.dtype), weights)
    pixels = x.reshape(batch, -1, channels).astype(weights.dtype)
    return jnp.einsum("bpc,pqc->bqc", pixels, matrix).reshape(batch, *outputs, channels).astype(x.dtype)


def _seen(pixels: int, taps: int, stride: int, low: int, high: int) -> np.ndarray:
    """``[pixels, outputs, taps]``, 1 where an output sees a pixel through a tap, along one axis."""
    outputs = max(0, (pixels + low + high - taps) // stride + 1)
    pixel, output, tap = np.ogrid[:pixels, :outputs, :taps]
    return (pixel == output * stride - low + tap).astype(np.float32)


def _weighted_shifts(stride: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    size = kernel.shape[0]
    weights = kernel[:, :, 0].astype(_wide(kernel)).reshape(size * size, -1)
    terms = [
        shifted.astype(weights.dtype) * weight
        for shifted, weight in zip(_shifts(x, size, stride), weights, strict=True)
    ]
    return sum(terms[1:], start=terms[0]).astype(x.dtype)


_sum_of_shifts = jax.custom_vjp(_weighted_shifts, nondiff_argnums=(0,))


def _forward(stride: int, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _weighted_shifts(stride, x, kernel), (x, kernel)


def _backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    (by_x,) = jax.vjp(lambda x: _weighted_shifts(stride, x, kernel), x)[1](gradient)
    wide = gradient.astype(_wide(kernel))
    by_weight = [
        _sum_over_pixels(shifted.astype(wide.dtype) * wide) for shifted in _shifts(x, kernel.shape[0], stride)
    ]
    return by_x, jnp.stack(by_weight).reshape(kernel.shape).astype(kernel.dtype)


_sum_of_shifts.defvjp(_forward, _backward)


def _shifts(x: jax.Array, size: int, stride: int) -> list[jax.Array]:
    """What each of the ``size²`` weights sees of the padded ``x``, row by row: ``[B, H', W', C]``."""
    batch, height, width, channels = x.shape
    rows, columns = (((side - size) // stride) * stride + 1 for side in (height, width))
    return [
        jax.lax.slice(x, (0, i, j, 0), (batch, i + rows, j + columns, channels), (1, stride, stride, 1))
        for i in range(size)
        for j in range(size)
    ]


def _sum_over_pixels(x: jax.Array) -> jax.Array:
    """``[B, H, W, C] → [C]``. Halving the batch first leaves XLA's slow reduction less to do."""
    while x.shape[0] % 2 == 0 and x.shape[0] > 0:
        half = x.shape[0] // 2
        x = x[:half] + x[half:]
    return x.sum((0, 1, 2))


def _wide(x: jax.Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)
