"""Convolutions of groups of channels, each by itself."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.models.layers.basic import Dtype


class GroupedConv(nn.Module):
    """Convolution ``[B, H, W, C] → [B, H/stride, W/stride, features]`` without bias, in groups of ``group``."""

    features: int
    group: int
    kernel_size: int
    stride: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The kernel is ``[k, k, group, features]``."""
        size = self.kernel_size
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        kernel = self.param("kernel", init, (size, size, self.group, self.features), jnp.float32)
        pads = (size // 2, size // 2)
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=(pads, pads),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.features // self.group,
        )
