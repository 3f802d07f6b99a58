"""The few layers every network is made of.

Layout is NHWC, kernels are HWIO (convolution) or IO (dense), parameters and norm statistics are float32
whatever the compute ``dtype``. Padding is that of the origin of the weights: PyTorch's is explicit, TensorFlow's
``SAME`` places the odd pixel of a strided convolution at the other end.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.models.convolution import Pads, conv, pointwise_conv
from finetune_jax.models.depthwise import depthwise_conv
from finetune_jax.models.pooling import max_pool

Dtype = Any
Padding = Pads | Literal["SAME"]

_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_depthwise_init = nn.initializers.variance_scaling(
    2.0, "fan_in", "normal"
)  # fan_out would count all channels
_dense_init = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


@dataclass(frozen=True)
class Numerics:
    """How layers compute: settings of a run, not of an architecture.

    Attributes:
        dtype: compute type of convolutions and dense layers; logits are always float32.
        norm_momentum: share of the old running statistics kept in each training step (0.9 is PyTorch's 0.1).
        norm_axis: name of the mapped axis over which batch statistics are averaged; None keeps them
            per replica, as in the papers.
        rematerialise: keep only the input of each part for the backward pass and compute the rest again there.
    """

    dtype: Dtype = field(default=jnp.float32)
    norm_momentum: float = 0.9
    norm_axis: str | None = None
    rematerialise: bool = False


def scaled(features: int, width: float) -> int:
    """Number of channels of a network ``width`` times as wide."""
    return max(1, round(features * width))


def at_least_float32(x: jax.Array) -> jnp.dtype:
    """Type for sums over ``x``: float32 of half precision, float64 of float64."""
    return jnp.promote_types(x.dtype, jnp.float32)


def symmetric(padding: int) -> Pads:
    """Padding of ``padding`` pixels on all four sides."""
    return ((padding, padding), (padding, padding))


def same_pads(x: jax.Array, window: tuple[int, int], stride: int) -> Pads:
    """Padding that TensorFlow calls ``SAME``, of images ``x [B, H, W, C]``."""
    vertical, horizontal = jax.lax.padtype_to_pads(x.shape[1:3], window, (stride, stride), "SAME")
    return vertical, horizontal


class Conv(nn.Module):
    """Convolution ``[B, H, W, C] → [B, H', W', features]`` without bias."""

    features: int
    kernel_size: int | tuple[int, int]
    stride: int = 1
    padding: Padding | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer; the default padding is ``kernel_size // 2`` on every side."""
        size = self.kernel_size
        height, width = (size, size) if isinstance(size, int) else size
        kernel = self.param("kernel", _conv_init, (height, width, x.shape[-1], self.features), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if height == width == 1 and self.padding is None:
            return pointwise_conv(x[:, :: self.stride, :: self.stride], kernel[0, 0])
        centred = ((height // 2, height // 2), (width // 2, width // 2))
        pads = centred if self.padding is None else self.padding
        if pads == "SAME":
            pads = same_pads(x, (height, width), self.stride)
        return conv(x, kernel, self.stride, pads)


class DepthwiseConv(nn.Module):
    """Convolution of each channel by itself ``[B, H, W, C] → [B, H', W', C]`` without bias."""

    kernel_size: int
    stride: int = 1
    padding: Padding | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer; the default padding is ``kernel_size // 2`` on every side."""
        window = (self.kernel_size, self.kernel_size)
        kernel = self.param("kernel", _depthwise_init, (*window, 1, x.shape[-1]), jnp.float32)
        pads = symmetric(self.kernel_size // 2) if self.padding is None else self.padding
        if pads == "SAME":
            pads = same_pads(x, window, self.stride)
        return depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, pads)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with PyTorch's running statistics.

    Training normalises with the biased batch variance and moves the running variance towards the unbiased
    one. Flax's own layer uses the biased one for both, which differs by ``n / (n - 1)``: 14 % for a batch of
    two 2×2 maps. Statistics are computed in float32 (float64 of float64).
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
        wide = x.astype(at_least_float32(x))
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


def relu6(x: jax.Array) -> jax.Array:
    """``min(max(x, 0), 6)`` with PyTorch's derivative at 0, which is 0."""
    return jnp.minimum(nn.relu(x), 6.0)


def max_pool_3x3(x: jax.Array) -> jax.Array:
    """3×3 maximum with stride 2 and one pixel of padding, ``[B, H, W, C] → [B, H/2, W/2, C]``."""
    return max_pool(x, symmetric(1))


def global_average(x: jax.Array) -> jax.Array:
    """Mean over the spatial axes, ``[B, H, W, C] → [B, C]`` in at least float32; ``[B, C]`` passes unchanged."""
    x = x.astype(at_least_float32(x))
    return x.mean((1, 2)) if x.ndim == 4 else x
