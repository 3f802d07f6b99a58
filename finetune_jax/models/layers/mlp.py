"""The two dense layers between which a block widens its channels, and the activation there."""

from typing import Literal

import jax
import jax.numpy as jnp

from finetune_jax.models.layers.basic import Dtype
from finetune_jax.models.layers.gelu import gelu
from finetune_jax.models.layers.linear import Linear

GatedActivation = Literal["gelu", "gelu_tanh", "swiglu"]
"""``gelu`` exactly, by its approximation with tanh, or a half of the channels times the SiLU of the other."""


def activate(x: jax.Array, activation: GatedActivation) -> jax.Array:
    """``[..., H] → [..., H]``, of ``swiglu`` ``[..., 2·H] → [..., H]`` (Shazeer, "GLU variants", 2020)."""
    if activation == "swiglu":
        gate, value = jnp.split(x, 2, axis=-1)
        return jax.nn.silu(gate) * value
    return jax.nn.gelu(x, approximate=True) if activation == "gelu_tanh" else gelu(x)


def mlp_layers(
    x: jax.Array,
    hidden: int,
    activation: GatedActivation,
    dtype: Dtype,
    prefix: str = "",
    residual: jax.Array | None = None,
) -> jax.Array:
    """``[..., C] → [..., C]`` by way of ``hidden`` channels, in layers ``fc1`` and ``fc2`` of the calling module.

    ``residual``, like ``x``, is added to the result.
    """
    width = 2 * hidden if activation == "swiglu" else hidden
    first = Linear(width, dtype=dtype, name=f"{prefix}fc1")
    y = first(x, "gelu") if activation == "gelu" else activate(first(x), activation)
    return Linear(x.shape[-1], dtype=dtype, name=f"{prefix}fc2")(y, residual=residual)
