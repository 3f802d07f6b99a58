"""Products of matrices with what follows them, on CPU in one call into oneDNN where that is worth it."""

from typing import Literal

import jax
import jax.numpy as jnp

from finetune_jax.models.layers import convolution
from finetune_jax.models.layers.gelu import gelu
from finetune_jax.models.layers.onednn import dense as onednn
from finetune_jax.models.layers.onednn.convolution import finishes
from finetune_jax.models.layers.onednn.descriptions import Finish

Activation = Literal["none", "gelu"]


def affine(
    activation: Activation, x: jax.Array, kernel: jax.Array, bias: jax.Array | None, *residual: jax.Array
) -> jax.Array:
    """``activation(x · kernel + bias [+ residual])``.

    Args:
        activation: the exact GELU or nothing.
        x: ``[N, I]``.
        kernel: ``[I, O]``, of the same type.
        bias: ``[O]`` float32, None for none.
        residual: ``[N, O]`` of the type of ``x``, at most one.

    Returns:
        ``[N, O]`` of the type of ``x``.
    """
    images, window = x.reshape(1, x.shape[0], 1, -1), kernel.reshape(1, 1, *kernel.shape)
    product = convolution.call_for(images, window, 1, convolution.NO_PADS)
    finish = Finish(activation, bool(residual), scaled=False)
    if product is not None and finishes(product, finish):
        offset = jnp.zeros(kernel.shape[1:]) if bias is None else bias
        return onednn.affine(product, finish, x, kernel, offset, *residual)
    y = x @ kernel
    if bias is not None:
        y = y + bias.astype(x.dtype)
    for other in residual:
        y = y + other
    return gelu(y) if activation == "gelu" else y
