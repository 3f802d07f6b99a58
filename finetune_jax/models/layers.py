"""The few layers every network is made of.

Layout is NHWC, kernels are HWIO (convolution) or IO (dense), parameters and norm statistics are float32
whatever the compute ``dtype``. Padding is explicit, because ``SAME`` places the odd pixel of a strided
convolution differently from the origin of the weights.
"""

from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Dtype = Any
Padding = tuple[tuple[int, int], tuple[int, int]]

_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_dense_init = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


@dataclass(frozen=True)
class Numerics:
    """How layers compute: settings of a run, not of an architecture.

    Attributes:
        dtype: compute type of convolutions and dense layers; logits are always float32.
        norm_momentum: share of the old running statistics kept in each training step (0.9 is PyTorch's 0.1).
        norm_axis: name of the mapped axis over which batch statistics are averaged; None keeps them
            per replica, as in the papers.
    """

    dtype: Dtype = field(default=jnp.float32)
    norm_momentum: float = 0.9
    norm_axis: str | None = None


def symmetric(padding: int) -> Padding:
    """Padding of ``padding`` pixels on all four sides."""
    return ((padding, padding), (padding, padding))


class Conv(nn.Module):
    """Convolution ``[B, H, W, C] → [B, H', W', features]`` without bias."""

    features: int
    kernel_size: int
    stride: int = 1
    padding: Padding | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer; the default padding is ``kernel_size // 2`` on every side."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", _conv_init, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.kernel_size == 1 and self.padding is None:
            # A matrix product over pixels: XLA's weight gradient of a 1×1 convolution is far slower on CPU.
            return jnp.einsum("bhwi,io->bhwo", x[:, :: self.stride, :: self.stride], kernel[0, 0])
        padding = symmetric(self.kernel_size // 2) if self.padding is None else self.padding
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.stride, self.stride),
            padding=padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with PyTorch's running statistics.

    Training normalises with the biased batch variance and moves the running variance towards the unbiased
    one. Flax's own layer uses the biased one for both, which differs by ``n / (n - 1)``: 14 % for a batch of
    two 2×2 maps. Statistics are computed in float32.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise ``x [..., C]`` with batch (``train``) or running statistics."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones_init(), channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), channels, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if train:
            mean, var, count = self._batch_statistics(x)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        factor = jax.lax.rsqrt(var + self.epsilon) * scale
        return (x * factor.astype(x.dtype) + (bias - mean * factor).astype(x.dtype)).astype(x.dtype)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        axes = tuple(range(x.ndim - 1))
        wide = x.astype(jnp.float32)
        moments = jnp.stack([wide.mean(axes), jnp.square(wide).mean(axes)])
        count = x.size // x.shape[-1]
        if self.axis_name is not None and not self.is_initializing():
            moments = jax.lax.pmean(moments, self.axis_name)
            count *= jax.lax.axis_size(self.axis_name)
        mean, mean_of_squares = moments
        return mean, jnp.maximum(mean_of_squares - jnp.square(mean), 0.0), count


def dense(features: int, name: str) -> nn.Dense:
    """Affine map ``[..., C] → [..., features]`` in float32, initialised as PyTorch's ``Linear``."""
    return nn.Dense(features, kernel_init=_dense_init, name=name)


def norm(numerics: Numerics, name: str, epsilon: float = 1e-5) -> BatchNorm:
    """Batch norm with the run's numerics."""
    return BatchNorm(numerics.norm_momentum, epsilon, numerics.norm_axis, name=name)


def max_pool_3x3(x: jax.Array) -> jax.Array:
    """3×3 maximum with stride 2 and one pixel of padding, ``[B, H, W, C] → [B, H/2, W/2, C]``."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=symmetric(1))


def global_average(x: jax.Array) -> jax.Array:
    """Mean over the spatial axes, ``[B, H, W, C] → [B, C]`` in float32; ``[B, C]`` passes unchanged."""
    return x.astype(jnp.float32).mean((1, 2)) if x.ndim == 4 else x.astype(jnp.float32)
