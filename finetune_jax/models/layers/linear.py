"""Dense layers and layer norms of networks of tokens ``[B, S, C]``, and of the channels of images ``[B, H, W, C]``."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.models.layers.basic import Dtype
from finetune_jax.models.layers.dense import Activation, affine
from finetune_jax.models.layers.layer_norm import layer_norm

_kernel_init = nn.initializers.truncated_normal(0.02)


class Linear(nn.Module):
    """Affine map ``[..., C] → [..., features]`` of the last axis.

    Kernels start as in the published vision transformers, normal of deviation 0.02, and biases at zero.
    """

    features: int
    use_bias: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, activation: Activation = "none", residual: jax.Array | None = None
    ) -> jax.Array:
        """All leading axes are one for the product: XLA's gradient of a matrix is faster than that of three axes.

        ``residual``, like the result, is added before the activation.
        """
        kernel = self.param("kernel", _kernel_init, (x.shape[-1], self.features), jnp.float32)
        rows = x.astype(self.dtype).reshape(math.prod(x.shape[:-1]), x.shape[-1])
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        added = (
            () if residual is None else (residual.astype(self.dtype).reshape(rows.shape[0], self.features),)
        )
        y = affine(activation, rows, kernel.astype(self.dtype), bias, *added)
        return y.reshape(*x.shape[:-1], self.features)


class Bias(nn.Module):
    """An offset of each channel, for a layer that has none of its own."""

    features: int

    @nn.compact
    def __call__(self) -> jax.Array:
        """``[features]`` float32."""
        return self.param("offset", nn.initializers.zeros_init(), (self.features,), jnp.float32)


class LayerNorm(nn.Module):
    """Normalise the last axis to mean 0 and variance 1, then scale and shift; computed in at least float32."""

    epsilon: float = 1e-6
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[..., C]`` of the compute type."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones_init(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), shape, jnp.float32)
        return layer_norm(self.epsilon, x, scale, bias).astype(self.dtype)


class LayerScale(nn.Module):
    """A learned factor of each channel, which starts near zero (Touvron et al., "Going deeper", ICCV 2021)."""

    initial: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Like ``x [..., C]``."""
        gamma = self.param("gamma", nn.initializers.constant(self.initial), x.shape[-1:], jnp.float32)
        return x * gamma.astype(x.dtype)
