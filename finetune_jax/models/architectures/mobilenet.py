"""MobileNet-V1 and -V2: depthwise convolutions, ReLU6.

Sources: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications"
(2017), with the ReLU6 of its published weights; Sandler et al., "MobileNetV2: Inverted Residuals and Linear
Bottlenecks" (CVPR 2018).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax

from finetune_jax.models.heads import PooledClassifier
from finetune_jax.models.layers.basic import Conv, DepthwiseConv, Numerics, Padding, conv_norm, norm, scaled
from finetune_jax.models.network import Network, PlainBuilder, TorchNames


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU6: the stem and, with 1×1 kernels, the last block."""

    features: int
    kernel_size: int
    stride: int
    padding: Padding | None
    epsilon: float
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H/stride, W/stride, features]``."""
        dtype = self.numerics.dtype
        conv = Conv(self.features, self.kernel_size, self.stride, self.padding, dtype, name="conv")
        return conv_norm(conv, norm(self.numerics, "norm", self.epsilon), x, train, "relu6")


class SeparableBlock(nn.Module):
    """3×3 convolution of each channel, then 1×1 convolution; norm and ReLU6 after both."""

    features: int
    stride: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H/stride, W/stride, features]``."""
        dtype = self.numerics.dtype
        depthwise = DepthwiseConv(3, self.stride, dtype=dtype, name="depthwise")
        x = conv_norm(depthwise, norm(self.numerics, "depthwise_norm"), x, train, "relu6")
        pointwise = Conv(self.features, 1, dtype=dtype, name="pointwise")
        return conv_norm(pointwise, norm(self.numerics, "pointwise_norm"), x, train, "relu6")


class InvertedResidual(nn.Module):
    """1×1 convolution to ``expansion`` times the channels, depthwise convolution, 1×1 convolution without ReLU.

    Without an expansion (1) the first of them is left out.
    """

    features: int
    expansion: int
    kernel_size: int
    stride: int
    shortcut: bool
    padding: Padding | None
    epsilon: float
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H/stride, W/stride, features]``."""
        dtype, y = self.numerics.dtype, x
        if self.expansion > 1:
            expand = Conv(self.expansion * x.shape[-1], 1, dtype=dtype, name="expand")
            y = conv_norm(expand, norm(self.numerics, "expand_norm", self.epsilon), y, train, "relu6")
        depthwise = DepthwiseConv(self.kernel_size, self.stride, self.padding, dtype, name="depthwise")
        y = conv_norm(depthwise, norm(self.numerics, "depthwise_norm", self.epsilon), y, train, "relu6")
        project = Conv(self.features, 1, dtype=dtype, name="project")
        shortcut = x if self.shortcut else None
        return conv_norm(
            project, norm(self.numerics, "project_norm", self.epsilon), y, train, residual=shortcut
        )


class Stage(NamedTuple):
    """``depth`` inverted residuals; the first one has the stride and no shortcut."""

    expansion: int
    features: int
    depth: int
    stride: int
    kernel_size: int


def inverted_residual_network(
    name: str,
    stages: Sequence[Stage],
    num_classes: int,
    width: float,
    numerics: Numerics,
    *,
    padding: Padding | None,
    epsilon: float,
    torch_names: Sequence[TorchNames],
) -> Network:
    """A 3×3 convolution, inverted residuals, and a 1×1 convolution to 1280 channels as the last block."""
    blocks = (
        InvertedResidual(
            scaled(stage.features, width),
            stage.expansion,
            stage.kernel_size,
            stage.stride if index == 0 else 1,
            index > 0,
            padding,
            epsilon,
            numerics,
        )
        for _, index, stage in _positions(stages)
    )
    return Network(
        architecture=name,
        width=width,
        num_classes=num_classes,
        stem=ConvBlock(scaled(32, width), 3, 2, padding, epsilon, numerics),
        blocks=(*blocks, ConvBlock(scaled(1280, width), 1, 1, None, epsilon, numerics)),
        head=PooledClassifier(num_classes),
        torch_names=torch_names[0],
        other_torch_names=tuple(torch_names[1:]),
    )


def timm_names(stages: Sequence[Stage]) -> TorchNames:
    """Those of timm: ``blocks.STAGE.INDEX.conv_pw`` …, norms numbered from 1 within the block."""
    blocks = []
    for number, index, stage in _positions(stages):
        expanding = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
        plain = {"depthwise": "conv_dw", "project": "conv_pw"}
        convolutions = expanding if stage.expansion > 1 else plain
        names: dict[str, str] = {}
        for position, (layer, convolution) in enumerate(convolutions.items(), 1):
            names[layer] = f"blocks.{number}.{index}.{convolution}"
            names[f"{layer}_norm"] = f"blocks.{number}.{index}.bn{position}"
        blocks.append(names)
    return TorchNames(
        {"conv": "conv_stem", "norm": "bn1"},
        (*blocks, {"conv": "conv_head", "norm": "bn2"}),
        {"classifier": "classifier"},
    )


def _torchvision_names(stages: Sequence[Stage]) -> TorchNames:
    """``features.BLOCK.conv``: an nn.Sequential of (convolution, norm, ReLU6), but flat behind the last ReLU6."""
    blocks: list[Mapping[str, str]] = []
    for block, (_, _, stage) in enumerate(_positions(stages), 1):
        layers = ("expand", "depthwise") if stage.expansion > 1 else ("depthwise",)
        prefix = f"features.{block}.conv."
        names: dict[str, str] = {}
        for position, layer in enumerate(layers):
            names |= {layer: f"{prefix}{position}.0", f"{layer}_norm": f"{prefix}{position}.1"}
        names |= {"project": f"{prefix}{len(layers)}", "project_norm": f"{prefix}{len(layers) + 1}"}
        blocks.append(names)
    last = f"features.{len(blocks) + 1}"
    return TorchNames(
        {"conv": "features.0.0", "norm": "features.0.1"},
        (*blocks, {"conv": f"{last}.0", "norm": f"{last}.1"}),
        {"classifier": "classifier.1"},
    )


def _positions(stages: Sequence[Stage]) -> Iterator[tuple[int, int, Stage]]:
    """Number of the stage, index in the stage and stage of every inverted residual."""
    for number, stage in enumerate(stages):
        for index in range(stage.depth):
            yield number, index, stage


# Table 2 of the paper.
_V2_STAGES = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 32, 3, 2, 3),
    Stage(6, 64, 4, 2, 3),
    Stage(6, 96, 3, 1, 3),
    Stage(6, 160, 3, 2, 3),
    Stage(6, 320, 1, 1, 3),
)


def _mobilenet_v2(name: str, num_classes: int, width: float, numerics: Numerics) -> Network:
    return inverted_residual_network(
        name,
        _V2_STAGES,
        num_classes,
        width,
        numerics,
        padding=None,
        epsilon=1e-5,
        torch_names=(_torchvision_names(_V2_STAGES), timm_names(_V2_STAGES)),
    )


# Table 1 of the paper: (channels, blocks) of each stage; every stage but the first begins with a stride of 2.
_V1_STAGES = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))


def _mobilenet_v1(name: str, num_classes: int, width: float, numerics: Numerics) -> Network:
    blocks, torch_blocks = [], []
    for stage, (features, depth) in enumerate(_V1_STAGES):
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            blocks.append(SeparableBlock(scaled(features, width), stride, numerics))
            prefix = f"blocks.{stage}.{index}."
            torch_blocks.append(
                {
                    "depthwise": prefix + "conv_dw",
                    "depthwise_norm": prefix + "bn1",
                    "pointwise": prefix + "conv_pw",
                    "pointwise_norm": prefix + "bn2",
                }
            )
    return Network(
        architecture=name,
        width=width,
        num_classes=num_classes,
        stem=ConvBlock(scaled(32, width), 3, 2, None, 1e-5, numerics),
        blocks=tuple(blocks),
        head=PooledClassifier(num_classes),
        torch_names=TorchNames(
            {"conv": "conv_stem", "norm": "bn1"}, tuple(torch_blocks), {"classifier": "classifier"}
        ),
    )


BUILDERS: dict[str, PlainBuilder] = {"mobilenet": _mobilenet_v1, "mobilenet_v2": _mobilenet_v2}
