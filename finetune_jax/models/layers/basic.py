"""The few layers every network is made of.

Layout is NHWC, kernels are HWIO (convolution) or IO (dense), parameters and norm statistics are float32
whatever the compute ``dtype``. Padding is that of the origin of the weights: PyTorch's is explicit, TensorFlow's
``SAME`` places the odd pixel of a strided convolution at the other end.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.models.layers import batch_norm, convolution, depthwise
from finetune_jax.models.layers.batch_norm import at_least_float32
from finetune_jax.models.layers.convolution import Pads
from finetune_jax.models.layers.onednn import convolution as onednn
from finetune_jax.models.layers.onednn import descriptions
from finetune_jax.models.layers.pooling import max_pool

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
        parameter_axis: name of the mapped axis over whose replicas the parameters are in shares; None has them whole.
    """

    dtype: Dtype = field(default=jnp.float32)
    norm_momentum: float = 0.9
    norm_axis: str | None = None
    rematerialise: bool = False
    parameter_axis: str | None = None


def scaled(features: int, width: float) -> int:
    """Number of channels of a network ``width`` times as wide."""
    return max(1, round(features * width))


def symmetric(padding: int) -> Pads:
    """Padding of ``padding`` pixels on all four sides."""
    return ((padding, padding), (padding, padding))


def same_pads(x: jax.Array, window: tuple[int, int], stride: int) -> Pads:
    """Padding that TensorFlow calls ``SAME``, of images ``x [B, H, W, C]``."""
    vertical, horizontal = jax.lax.padtype_to_pads(x.shape[1:3], window, (stride, stride), "SAME")
    return vertical, horizontal


class _Convolution(nn.Module):
    """What both kinds of convolution have in common."""

    _form: ClassVar[Callable[..., jax.Array]]
    _call_for: ClassVar[Callable[..., descriptions.Convolution | None]]

    def channels(self, x: jax.Array) -> int:
        """Of the outputs."""
        raise NotImplementedError

    def operands(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int, Pads]:
        """Images and kernel in the compute type, stride and padding."""
        raise NotImplementedError

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer; the default padding is ``kernel_size // 2`` on every side."""
        return type(self)._form(*self.operands(x))

    def and_then(
        self,
        x: jax.Array,
        activation: descriptions.Activation,
        factor: jax.Array,
        offset: jax.Array,
        residual: jax.Array | None,
    ) -> jax.Array:
        """Apply the layer and :func:`batch_norm.finish` what comes of it, on CPU in one call where that pays."""
        x, kernel, stride, pads = self.operands(x)
        form, call_for = type(self)._form, type(self)._call_for

        def composed(x: jax.Array, kernel: jax.Array, *others: jax.Array) -> jax.Array:
            return batch_norm.finish(activation, form(x, kernel, stride, pads), *others)

        others = (factor, offset, *(() if residual is None else (residual.astype(x.dtype),)))
        convolution = call_for(x, kernel, stride, pads)
        finish = descriptions.Finish(activation, residual is not None)
        if convolution is None or not onednn.finishes(convolution, finish):
            return composed(x, kernel, *others)
        return onednn.convolve_and_finish(convolution, finish, composed, x, kernel, *others)


class Conv(_Convolution):
    """Convolution ``[B, H, W, C] → [B, H', W', features]`` without bias."""

    features: int
    kernel_size: int | tuple[int, int]
    stride: int = 1
    padding: Padding | None = None
    dtype: Dtype = jnp.float32

    _form, _call_for = convolution.conv, convolution.call_for

    def channels(self, x: jax.Array) -> int:
        """``features``"""
        return self.features

    @nn.compact
    def operands(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int, Pads]:
        """Of a 1×1 kernel, the pixels that a stride leaves are the images."""
        size = self.kernel_size
        height, width = (size, size) if isinstance(size, int) else size
        kernel = self.param("kernel", _conv_init, (height, width, x.shape[-1], self.features), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if height == width == 1 and self.padding is None:
            return x[:, :: self.stride, :: self.stride], kernel, 1, convolution.NO_PADS
        centred = ((height // 2, height // 2), (width // 2, width // 2))
        pads = centred if self.padding is None else self.padding
        if pads == "SAME":
            pads = same_pads(x, (height, width), self.stride)
        return x, kernel, self.stride, pads


class DepthwiseConv(_Convolution):
    """Convolution of each channel by itself ``[B, H, W, C] → [B, H', W', C]`` without bias."""

    kernel_size: int
    stride: int = 1
    padding: Padding | None = None
    dtype: Dtype = jnp.float32

    _form, _call_for = depthwise.depthwise_conv, depthwise.call_for

    def channels(self, x: jax.Array) -> int:
        """As many as ``x`` has."""
        return x.shape[-1]

    @nn.compact
    def operands(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int, Pads]:
        """The kernel is ``[k, k, 1, C]``."""
        window = (self.kernel_size, self.kernel_size)
        kernel = self.param("kernel", _depthwise_init, (*window, 1, x.shape[-1]), jnp.float32)
        pads = symmetric(self.kernel_size // 2) if self.padding is None else self.padding
        if pads == "SAME":
            pads = same_pads(x, window, self.stride)
        return x.astype(self.dtype), kernel.astype(self.dtype), self.stride, pads


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with PyTorch's running statistics.

    Training normalises with the biased batch variance and moves the running variance towards the unbiased
    one. Flax's own layer uses the biased one for both, which differs by ``n / (n - 1)``: 14 % for a batch of
    two 2×2 maps. Statistics are computed in float32 (float64 of float64).
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None

    def __call__(
        self,
        x: jax.Array,
        train: bool,
        activation: descriptions.Activation = "none",
        residual: jax.Array | None = None,
    ) -> jax.Array:
        """Normalise ``x [..., C]`` with batch (``train``) or running statistics, add ``residual``, activate."""
        others = () if residual is None else (residual.astype(x.dtype),)
        if not train:
            return batch_norm.finish(activation, x, *self.affine(x.shape[-1]), *others)
        scale, bias, running_mean, running_var = self._variables(x.shape[-1])
        axis_name = None if self.is_initializing() else self.axis_name
        y, (mean, var) = batch_norm.normalise(activation, self.epsilon, axis_name, x, scale, bias, *others)
        if not self.is_initializing():
            count = x.size // x.shape[-1] * (1 if axis_name is None else jax.lax.axis_size(axis_name))
            unbiased = var * (count / max(count - 1, 1))
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * unbiased
        return y

    def affine(self, channels: int) -> tuple[jax.Array, jax.Array]:
        """Factor and offset ``[C]`` that normalise by running statistics."""
        scale, bias, mean, var = self._variables(channels)
        return batch_norm.affine((mean.value, var.value), scale, bias, self.epsilon)

    @nn.compact
    def _variables(self, channels: int) -> tuple[jax.Array, jax.Array, nn.Variable, nn.Variable]:
        shape = (channels,)
        return (
            self.param("scale", nn.initializers.ones_init(), shape, jnp.float32),
            self.param("bias", nn.initializers.zeros_init(), shape, jnp.float32),
            self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32),
            self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32),
        )


def dense(features: int, name: str) -> nn.Dense:
    """Affine map ``[..., C] → [..., features]`` in float32, initialised as PyTorch's ``Linear``."""
    return nn.Dense(features, kernel_init=_dense_init, name=name)


def norm(numerics: Numerics, name: str, epsilon: float = 1e-5) -> BatchNorm:
    """Batch norm with the run's numerics."""
    return BatchNorm(numerics.norm_momentum, epsilon, numerics.norm_axis, name=name)


def conv_norm(
    conv: Conv | DepthwiseConv,
    norm: BatchNorm,
    x: jax.Array,
    train: bool,
    activation: descriptions.Activation = "none",
    residual: jax.Array | None = None,
) -> jax.Array:
    """Convolution and batch norm of ``x [B, H, W, C]``, plus ``residual [B, H', W', C']``, then the activation.

    With running statistics the norm does not wait for all pixels, so that what follows a sum can be done before it
    is stored.
    """
    if not train:
        return conv.and_then(x, activation, *norm.affine(conv.channels(x)), residual)
    return norm(conv(x), train, activation, residual)


def average_pool(x: jax.Array, size: int, stride: int, pads: Pads = convolution.NO_PADS) -> jax.Array:
    """Mean of each window, padding counted as zeros, ``[B, H, W, C] → [B, H', W', C]``; sums in float32 at least."""
    wide = x.astype(at_least_float32(x))
    return nn.avg_pool(wide, (size, size), (stride, stride), pads).astype(x.dtype)


def max_pool_3x3(x: jax.Array) -> jax.Array:
    """3×3 maximum with stride 2 and one pixel of padding, ``[B, H, W, C] → [B, H/2, W/2, C]``."""
    return max_pool(x, symmetric(1))


def global_average(x: jax.Array) -> jax.Array:
    """Mean over the spatial axes, ``[B, H, W, C] → [B, C]`` in at least float32; ``[B, C]`` passes unchanged."""
    x = x.astype(at_least_float32(x))
    return x.mean((1, 2)) if x.ndim == 4 else x
