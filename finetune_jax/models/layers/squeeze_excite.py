"""Squeeze-and-excitation: each channel is multiplied by a factor that the mean of all channels decides.

Source: Hu et al., "Squeeze-and-Excitation Networks" (CVPR 2018). The two dense layers are 1×1 convolutions in PyTorch.
"""

from typing import Literal

import jax

from finetune_jax.models.layers.basic import Dtype, global_average
from finetune_jax.models.layers.linear import Linear

SmoothActivation = Literal["none", "relu", "silu", "hard_swish"]
"""Activations by name, of which only some are fused with convolutions."""


def activated(x: jax.Array, activation: SmoothActivation) -> jax.Array:
    """The activation by that name."""
    if activation == "none":
        return x
    return {"relu": jax.nn.relu, "silu": jax.nn.silu, "hard_swish": jax.nn.hard_swish}[activation](x)


def squeeze_excite_layers(
    x: jax.Array, hidden: int, activation: SmoothActivation, *, hard: bool, dtype: Dtype
) -> jax.Array:
    """``x [B, H, W, C]`` times a factor per channel, in layers ``se_reduce`` and ``se_expand`` of the calling module.

    Args:
        x: ``[B, H, W, C]``.
        hidden: channels between the dense layers.
        activation: there.
        hard: the factors come from the hard sigmoid, ``relu6(y + 3) / 6``.
        dtype: compute type.
    """
    y = global_average(x).astype(dtype)
    y = activated(Linear(hidden, dtype=dtype, name="se_reduce")(y), activation)
    y = Linear(x.shape[-1], dtype=dtype, name="se_expand")(y)
    factors = jax.nn.hard_sigmoid(y) if hard else jax.nn.sigmoid(y)
    return x * factors[:, None, None]
