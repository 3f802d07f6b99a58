"""Descriptions of convolutions for oneDNN: shapes, kinds, layouts."""

import ctypes
import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

# Elements of kernels that are reordered by one thread: to wake another takes 0.05 ms. Larger 1×1 kernels stay as
# they are, in products of matrices, which read them in place.
LARGE_KERNEL = 2**17
# Of its implementations, the library prefers those that multiply small matrices. Where a pixel has fewer channels
# than this, the direct ones are faster, most of all for input gradients of strides: in bfloat16 of depthwise
# convolutions by a factor of 100 (docs/lab). One of them, brgdmm_dw, is made for depthwise ones and stays.
_FEW_CHANNELS, _FEW_CHANNELS_STRIDED = 64, 128
SMALL_PRODUCTS, DIRECT_KERNELS = ("brgconv", "brg_fwd"), "jit"

Kind = Literal["forward", "by_input", "by_kernel"]
KINDS: tuple[Kind, ...] = ("forward", "by_input", "by_kernel")
AttentionKind = Literal["attend", "keep", "gradient"]
Activation = Literal["none", "relu", "relu6"]
Layout = tuple[Sequence[int], Sequence[int]]  # sizes, and how far apart neighbours lie


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Shapes of a convolution of ``images [B, H, W, I]`` with ``kernel [h, w, I / groups, O]``, and their type."""

    images: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int
    pads: tuple[tuple[int, int], tuple[int, int]]
    groups: int = 1
    dtype: str = "float32"

    @property
    def outputs(self) -> tuple[int, ...]:
        """``[B, H', W', O]``"""
        height, width = (
            (pixels + low + high - taps) // self.stride + 1
            for pixels, taps, (low, high) in zip(self.images[1:3], self.kernel[:2], self.pads, strict=True)
        )
        return (self.images[0], height, width, self.kernel[3])


@dataclasses.dataclass(frozen=True)
class Finish:
    """What becomes of a sum before it is stored: ``activation(sum [· factor] + offset [+ residual])``.

    ``factor [O]`` and ``offset [O]`` are float32, ``residual`` is like the outputs.
    """

    activation: Activation | Literal["gelu"] = "none"
    residual: bool = False
    scaled: bool = True


@dataclasses.dataclass(frozen=True)
class Attention:
    """Shapes of attention of tokens among themselves, queries, keys and values beside each other, float32.

    Attributes:
        images: ``B`` of ``joint [B, S, 3, H, d]``.
        tokens: ``S``.
        heads: ``H``.
        channels: of a head, ``d``.
    """

    images: int
    tokens: int
    heads: int
    channels: int

    @property
    def joint(self) -> tuple[int, ...]:
        """``[B, S, 3, H, d]``"""
        return (self.images, self.tokens, 3, self.heads, self.channels)

    @property
    def outputs(self) -> tuple[int, ...]:
        """``[B, S, H, d]``"""
        return (self.images, self.tokens, self.heads, self.channels)

    @property
    def shares(self) -> tuple[int, ...]:
        """``[B, H, S, S]``: how much a token takes of each."""
        return (self.images, self.heads, self.tokens, self.tokens)


class OneDNNError(RuntimeError):
    """A call into the library failed."""


def is_product(convolution: Convolution) -> bool:
    """Whether it is run as a product of matrices."""
    one_pixel = convolution.kernel[:2] == (1, 1) and convolution.stride == 1
    whole = convolution.groups == 1 and convolution.pads == ((0, 0), (0, 0))
    return one_pixel and whole and math.prod(convolution.kernel) >= LARGE_KERNEL


def has_few_channels(kind: Kind, convolution: Convolution) -> bool:
    """Whether a direct kernel is faster than a product for so few channels."""
    strided = kind == "by_input" and convolution.stride > 1
    per_group = convolution.kernel[2]
    windows = convolution.kernel[:2] != (1, 1)  # 1×1 kernels are products anyway
    return windows and per_group < (_FEW_CHANNELS_STRIDED if strided else _FEW_CHANNELS)


def transposed(matrix: Layout) -> Layout:
    """The layout of the transposed matrix."""
    (rows, columns), (down, right) = matrix
    return (columns, rows), (right, down)


def nhwc(shape: Sequence[int]) -> Layout:
    """In the library's order, batch and channels first."""
    batch, height, width, channels = shape
    return (batch, channels, height, width), (height * width * channels, 1, width * channels, channels)


def hwio(convolution: Convolution) -> Layout:
    """Layout of a kernel ``[height, width, inputs, outputs]`` in memory."""
    height, width, inputs, outputs = convolution.kernel
    sizes: tuple[int, ...] = (outputs, inputs, height, width)
    strides: tuple[int, ...] = (1, outputs, width * inputs * outputs, inputs * outputs)
    if convolution.groups > 1:
        per_group = outputs // convolution.groups
        sizes, strides = (convolution.groups, per_group, *sizes[1:]), (per_group, *strides)
    return sizes, strides


def int64(values: Sequence[int]) -> ctypes.Array:
    """The numbers as a C array."""
    return (ctypes.c_int64 * len(values))(*values)
