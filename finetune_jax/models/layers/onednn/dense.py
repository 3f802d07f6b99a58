"""Dense layers by oneDNN, with what follows the product in the same call, for ``jax.jit``, ``jax.vmap``, ``jax.grad``.

A dense layer is a 1×1 convolution of one image that is as high as there are rows.
"""

import dataclasses
import functools
from typing import Any

import jax
from jax.custom_batching import custom_vmap

from finetune_jax.models.layers.gelu import gelu, gelu_gradient
from finetune_jax.models.layers.onednn import xla_call
from finetune_jax.models.layers.onednn.convolution import by_input, by_kernel, convolve
from finetune_jax.models.layers.onednn.descriptions import Convolution, Finish


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def affine(product: Convolution, finish: Finish, *operands: jax.Array) -> jax.Array:
    """``activation(x · kernel + offset [+ residual])``.

    Args:
        product: shapes.
        finish: what follows the product; it has no factor.
        operands: ``x [N, I]``, ``kernel [I, O]``, ``offset [O]`` float32 and, if there is one, ``residual [N, O]``.
    """

    @custom_vmap
    def operation(*operands: jax.Array) -> jax.Array:
        x, kernel, offset, *residual = operands
        others = [other.reshape(product.outputs) for other in residual]
        y = xla_call.call("forward", product, *_shaped(product, x, kernel), offset, *others, finish=finish)
        return y.reshape(len(x), -1)

    @operation.def_vmap
    def mapped(size: int, batched: list[bool], *operands: jax.Array) -> tuple[jax.Array, bool]:
        del size
        axes = [0 if is_batched else None for is_batched in batched]
        return jax.vmap(functools.partial(_composed, product, finish), axes)(*operands), True

    return operation(*operands)


def _composed(product: Convolution, finish: Finish, *operands: jax.Array) -> jax.Array:
    x, kernel, offset, *residual = operands
    y = convolve(product, *_shaped(product, x, kernel)).reshape(len(x), -1) + offset.astype(x.dtype)
    for other in residual:
        y = y + other
    return gelu(y) if finish.activation == "gelu" else y


def _shaped(product: Convolution, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x.reshape(product.images), kernel.reshape(product.kernel)


def _forward(product: Convolution, finish: Finish, *operands: jax.Array) -> tuple[jax.Array, Any]:
    x, kernel, offset, *residual = operands
    y = affine(product, dataclasses.replace(finish, activation="none"), *operands)
    before = y if finish.activation == "gelu" else None
    saved = (x, kernel, before, offset, len(residual))
    return y if before is None else gelu(y), saved


def _backward(product: Convolution, finish: Finish, saved: Any, gradient: jax.Array) -> tuple[jax.Array, ...]:
    x, kernel, before, offset, residuals = saved
    if before is not None:
        gradient = gelu_gradient(before, gradient)
    images, window = _shaped(product, x, kernel)
    slopes = gradient.reshape(product.outputs)
    by_x = by_input(product, slopes, window).reshape(x.shape)
    return (
        by_x,
        by_kernel(product, images, slopes).reshape(kernel.shape),
        gradient.sum(0, dtype=offset.dtype),
        *[gradient] * residuals,
    )


affine.defvjp(_forward, _backward)
