"""Inverted residuals with squeeze-and-excitation, of which EfficientNet and MobileNet-V3 are made.

Sources: Tan and Le, "EfficientNet" (ICML 2019); Howard et al., "Searching for MobileNetV3" (ICCV 2019).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax

from finetune_jax.models.layers.basic import Conv, DepthwiseConv, Numerics, conv_norm, norm, scaled
from finetune_jax.models.layers.squeeze_excite import SmoothActivation, activated, squeeze_excite_layers
from finetune_jax.models.layers.stochastic_depth import residual


class ActivatedConv(nn.Module):
    """Convolution, batch norm, activation: a stem and, with 1×1 kernels, a last block."""

    features: int
    kernel_size: int
    stride: int
    activation: SmoothActivation
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H/stride, W/stride, features]``."""
        conv = Conv(self.features, self.kernel_size, self.stride, dtype=self.numerics.dtype, name="conv")
        return activated(conv_norm(conv, norm(self.numerics, "norm"), x, train), self.activation)


class SqueezedResidual(nn.Module):
    """1×1 convolution to more channels, depthwise convolution, squeeze-and-excitation, 1×1 convolution.

    Attributes:
        features: channels of the output.
        expanded: channels of the depthwise convolution; without the first convolution those of the input.
        expand: whether there is a first convolution.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        squeezed: channels that squeeze-and-excitation goes down to; 0 for none.
        activation: behind the first two convolutions.
        hard: squeeze-and-excitation computes with ReLU and the hard sigmoid, else with SiLU and the sigmoid.
        shortcut: whether the input is added.
        numerics: of the run.
    """

    features: int
    expanded: int
    expand: bool
    kernel_size: int
    stride: int
    squeezed: int
    activation: SmoothActivation
    hard: bool
    shortcut: bool
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H/stride, W/stride, features]``."""
        dtype, y = self.numerics.dtype, x
        if self.expand:
            expand = Conv(self.expanded, 1, dtype=dtype, name="expand")
            y = conv_norm(expand, norm(self.numerics, "expand_norm"), y, train)
            y = activated(y, self.activation)
        depthwise = DepthwiseConv(self.kernel_size, self.stride, dtype=dtype, name="depthwise")
        y = activated(conv_norm(depthwise, norm(self.numerics, "depthwise_norm"), y, train), self.activation)
        if self.squeezed:
            inner: SmoothActivation = "relu" if self.hard else "silu"
            y = squeeze_excite_layers(y, self.squeezed, inner, hard=self.hard, dtype=dtype)
        project = Conv(self.features, 1, dtype=dtype, name="project")
        y = conv_norm(project, norm(self.numerics, "project_norm"), y, train)
        return residual(self, x, y) if self.shortcut else y


@dataclass(frozen=True)
class Row:
    """One block of a table.

    Attributes:
        features: channels of the output.
        expanded: channels of the depthwise convolution.
        kernel_size: of it.
        stride: of it.
        squeezed: channels that squeeze-and-excitation goes down to; 0 for none.
        activation: behind its convolutions.
        expand: whether there is a first convolution.
        stage: number of the stage, for names.
    """

    features: int
    expanded: int
    kernel_size: int
    stride: int
    squeezed: int
    activation: SmoothActivation
    expand: bool
    stage: int


def blocks_of(
    rows: Sequence[Row], features: int, width: float, numerics: Numerics, *, hard: bool
) -> tuple[SqueezedResidual, ...]:
    """The blocks of a table, behind a stem of ``features`` channels."""
    blocks = []
    for row in rows:
        shortcut = row.stride == 1 and row.features == features
        blocks.append(
            SqueezedResidual(
                scaled(row.features, width),
                scaled(row.expanded, width),
                row.expand,
                row.kernel_size,
                row.stride,
                row.squeezed and scaled(row.squeezed, width),
                row.activation,
                hard,
                shortcut,
                numerics,
            )
        )
        features = row.features
    return tuple(blocks)


def timm_block_names(rows: Sequence[Row]) -> tuple[Mapping[str, str], ...]:
    """``blocks.STAGE.INDEX.conv_pw`` …, norms numbered from 1 within the block."""
    names, index = [], 0
    for number, row in enumerate(rows):
        index = index + 1 if number and rows[number - 1].stage == row.stage else 0
        prefix = f"blocks.{row.stage}.{index}."
        layers = ("expand", "depthwise", "project") if row.expand else ("depthwise", "project")
        places = ("conv_pw", "conv_dw", "conv_pwl") if row.expand else ("conv_dw", "conv_pw")
        of_block = {layer: prefix + place for layer, place in zip(layers, places, strict=True)}
        of_block |= {f"{layer}_norm": f"{prefix}bn{n}" for n, layer in enumerate(layers, 1)}
        if row.squeezed:
            of_block |= {"se_reduce": f"{prefix}se.conv_reduce", "se_expand": f"{prefix}se.conv_expand"}
        names.append(of_block)
    return tuple(names)


POINTWISE = ("se_reduce", "se_expand")
"""Dense layers that are 1×1 convolutions in PyTorch."""


def divisible(channels: float) -> int:
    """The multiple of 8 nearest to a number of channels, and not below nine tenths of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
