"""Convolutions whose stride is their size: every pixel is in one patch, and all patches are one product."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.models.layers.basic import Dtype


class PatchConv(nn.Module):
    """Convolution with bias of patches side by side, ``[B, H, W, C] → [B, H // size, W // size, features]``.

    Pixels behind the last whole patch are left out, as PyTorch's convolution without padding does.
    """

    features: int
    size: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The kernel is ``[size, size, C, features]``."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.truncated_normal(0.02), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        size, (rows, columns) = self.size, (side // self.size for side in x.shape[1:3])
        x = x[:, : rows * size, : columns * size].astype(self.dtype)
        x = x.reshape(x.shape[0], rows, size, columns, size, -1).swapaxes(2, 3)
        x = x.reshape(x.shape[0] * rows * columns, -1) @ kernel.astype(self.dtype).reshape(-1, self.features)
        return (x + bias.astype(self.dtype)).reshape(-1, rows, columns, self.features)
