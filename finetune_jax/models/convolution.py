"""Convolutions whose kernel gradients XLA runs fast on CPU.

Both give the values and gradients of ``lax.conv_general_dilated``. What JAX derives for the kernel is slow on CPU in
two ways (measured in docs/performance.md). For a 1×1 kernel it is a product ``gradientᵀ · x``, transposed
afterwards, for which all of ``gradient`` is turned round in memory; ``xᵀ · gradient`` is not. For larger ones it is a
convolution that takes examples for channels, and it loses speed as the batch grows; the sum over pieces of the
batch does not. Accelerators get the derived gradients.
"""

import jax
import jax.numpy as jnp

Pads = tuple[tuple[int, int], tuple[int, int]]

# Smaller pieces are a little faster still, but every one of them has to be compiled.
EXAMPLES_PER_PIECE = 32
MOST_PIECES = 4


def conv(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """``x [B, H, W, I]`` with ``kernel [h, w, I, O]`` of the same dtype, ``[B, H', W', O]``."""
    form = _in_pieces if jax.default_backend() == "cpu" else _plain
    return form(stride, pads, x, kernel)


def pointwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Product over channels of ``x [B, H, W, I]`` and ``kernel [I, O]`` of the same dtype, ``[B, H, W, O]``."""
    if jax.default_backend() == "cpu":
        return _product(x, kernel)
    return jnp.einsum("bhwi,io->bhwo", x, kernel)


def _plain(stride: int, pads: Pads, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


_in_pieces = jax.custom_vjp(_plain, nondiff_argnums=(0, 1))


def _forward(
    stride: int, pads: Pads, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain(stride, pads, x, kernel), (x, kernel)


def _backward(
    stride: int, pads: Pads, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    (by_x,) = jax.vjp(lambda x: _plain(stride, pads, x, kernel), x)[1](gradient)
    pieces = max(1, min(MOST_PIECES, -(-len(x) // EXAMPLES_PER_PIECE)))  # an empty batch is one
    by_kernel = jnp.zeros_like(kernel)
    for images, slopes in zip(jnp.array_split(x, pieces), jnp.array_split(gradient, pieces), strict=True):
        pull_back = jax.vjp(lambda kernel, images=images: _plain(stride, pads, images, kernel), kernel)[1]
        by_kernel += pull_back(slopes)[0]
    return by_x, by_kernel


_in_pieces.defvjp(_forward, _backward)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _product_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    by_kernel = x.reshape(-1, x.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])
    return gradient @ kernel.T, by_kernel


_product.defvjp(_product_forward, _product_backward)
