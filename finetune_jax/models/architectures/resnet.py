"""ResNet-18 to -152 (torchvision's "v1.5") and the Visual Decathlon's ResNet-26.

Sources: He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), with the stride in the 3×3
convolution of a bottleneck; Rebuffi et al., "Efficient parametrization of multi-domain deep neural networks"
(CVPR 2018) for ResNet-26.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.models.heads import NormalizedClassifier, PooledClassifier
from finetune_jax.models.layers.basic import (
    Conv,
    Numerics,
    average_pool,
    conv_norm,
    max_pool_3x3,
    norm,
    scaled,
)
from finetune_jax.models.network import Network, PlainBuilder, TorchNames


class ImageNetStem(nn.Module):
    """7×7 convolution with stride 2, batch norm, ReLU, 3×3 maximum with stride 2."""

    features: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H/4, W/4, features]``."""
        conv = Conv(self.features, 7, 2, dtype=self.numerics.dtype, name="conv")
        return max_pool_3x3(conv_norm(conv, norm(self.numerics, "norm"), x, train, "relu"))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions; the shortcut is projected where the shape changes."""

    features: int
    stride: int
    project: bool
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H/stride, W/stride, features]``."""
        dtype = self.numerics.dtype
        conv = Conv(self.features, 3, self.stride, dtype=dtype, name="conv1")
        y = conv_norm(conv, norm(self.numerics, "norm1"), x, train, "relu")
        if self.project:
            conv = Conv(self.features, 1, self.stride, dtype=dtype, name="shortcut_conv")
            x = conv_norm(conv, norm(self.numerics, "shortcut_norm"), x, train)
        conv = Conv(self.features, 3, dtype=dtype, name="conv2")
        return conv_norm(conv, norm(self.numerics, "norm2"), y, train, "relu", residual=x)


class BottleneckBlock(nn.Module):
    """1×1, 3×3 (strided), 1×1 convolution with four times the features behind."""

    features: int
    stride: int
    project: bool
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H/stride, W/stride, 4·features]``."""
        dtype = self.numerics.dtype
        conv = Conv(self.features, 1, dtype=dtype, name="conv1")
        y = conv_norm(conv, norm(self.numerics, "norm1"), x, train, "relu")
        conv = Conv(self.features, 3, self.stride, dtype=dtype, name="conv2")
        y = conv_norm(conv, norm(self.numerics, "norm2"), y, train, "relu")
        if self.project:
            conv = Conv(4 * self.features, 1, self.stride, dtype=dtype, name="shortcut_conv")
            x = conv_norm(conv, norm(self.numerics, "shortcut_norm"), x, train)
        conv = Conv(4 * self.features, 1, dtype=dtype, name="conv3")
        return conv_norm(conv, norm(self.numerics, "norm3"), y, train, "relu", residual=x)


class DecathlonStem(nn.Module):
    """3×3 convolution with stride 1 and batch norm, no ReLU."""

    features: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H, W, features]``."""
        conv = Conv(self.features, 3, dtype=self.numerics.dtype, name="conv")
        return conv_norm(conv, norm(self.numerics, "norm"), x, train)


class DecathlonBlock(nn.Module):
    """Basic block whose shortcut is averaged and padded with zero channels instead of projected."""

    features: int
    stride: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H/stride, W/stride, features]``."""
        dtype = self.numerics.dtype
        conv = Conv(self.features, 3, self.stride, dtype=dtype, name="conv1")
        y = conv_norm(conv, norm(self.numerics, "norm1"), x, train, "relu")
        if self.stride == 2:
            x = average_pool(x, 2, 2)
            # An odd size loses its last row and column here, while the convolution keeps them.
            x = jnp.pad(x, [(0, 0), (0, y.shape[1] - x.shape[1]), (0, y.shape[2] - x.shape[2]), (0, 0)])
        x = jnp.pad(x, [(0, 0), (0, 0), (0, 0), (0, self.features - x.shape[-1])])
        conv = Conv(self.features, 3, dtype=dtype, name="conv2")
        return conv_norm(conv, norm(self.numerics, "norm2"), y, train, "relu", residual=x)


def imagenet_resnet(
    name: str,
    block: type[nn.Module],
    depths: Sequence[int],
    num_classes: int,
    width: float,
    numerics: Numerics,
) -> Network:
    """A ResNet with an ImageNet stem and ``depths`` blocks of 64, 128, 256, 512 features (times ``width``)."""
    layers = ("conv1", "conv2", "conv3") if block is BottleneckBlock else ("conv1", "conv2")
    blocks, torch_blocks = [], []
    for stage, depth in enumerate(depths):
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            project = index == 0 and (stage > 0 or block is BottleneckBlock)
            blocks.append(block(scaled(64 * 2**stage, width), stride, project, numerics))
            prefix = f"layer{stage + 1}.{index}."
            names = {layer: prefix + layer for layer in layers}
            names |= {layer.replace("conv", "norm"): prefix + layer.replace("conv", "bn") for layer in layers}
            if project:
                names |= {"shortcut_conv": prefix + "downsample.0", "shortcut_norm": prefix + "downsample.1"}
            torch_blocks.append(names)
    return Network(
        architecture=name,
        width=width,
        num_classes=num_classes,
        stem=ImageNetStem(scaled(64, width), numerics),
        blocks=tuple(blocks),
        head=PooledClassifier(num_classes),
        torch_names=TorchNames({"conv": "conv1", "norm": "bn1"}, tuple(torch_blocks), {"classifier": "fc"}),
    )


def decathlon_resnet(
    name: str, blocks_per_stage: int, num_classes: int, width: float, numerics: Numerics
) -> Network:
    """ResNet-26 of the Visual Decathlon: stages of 64, 128, 256 features, each opened by a stride of 2."""
    blocks, torch_blocks = [], []
    for stage, features in enumerate((64, 128, 256)):
        for index in range(blocks_per_stage):
            blocks.append(DecathlonBlock(scaled(features, width), 2 if index == 0 else 1, numerics))
            prefix = f"blocks.{stage}.{index}."
            torch_blocks.append(
                {
                    "conv1": prefix + "conv1",
                    "norm1": prefix + "bn1",
                    "conv2": prefix + "conv2.1",  # the origin wraps it as Sequential(ReLU, conv)
                    "norm2": prefix + "bn2",
                }
            )
    return Network(
        architecture=name,
        width=width,
        num_classes=num_classes,
        stem=DecathlonStem(scaled(32, width), numerics),
        blocks=tuple(blocks),
        head=NormalizedClassifier(num_classes, numerics),
        torch_names=TorchNames(
            {"conv": "conv1", "norm": "bn1"}, tuple(torch_blocks), {"norm": "bn2.0", "classifier": "linear"}
        ),
    )


def _imagenet(block: type[nn.Module], *depths: int) -> PlainBuilder:
    return lambda name, num_classes, width, numerics: imagenet_resnet(
        name, block, depths, num_classes, width, numerics
    )


def _decathlon(blocks_per_stage: int) -> PlainBuilder:
    return lambda name, num_classes, width, numerics: decathlon_resnet(
        name, blocks_per_stage, num_classes, width, numerics
    )


BUILDERS: dict[str, PlainBuilder] = {
    "resnet18": _imagenet(BasicBlock, 2, 2, 2, 2),
    "resnet34": _imagenet(BasicBlock, 3, 4, 6, 3),
    "resnet50": _imagenet(BottleneckBlock, 3, 4, 6, 3),
    "resnet101": _imagenet(BottleneckBlock, 3, 4, 23, 3),
    "resnet152": _imagenet(BottleneckBlock, 3, 8, 36, 3),
    "resnet26": _decathlon(4),
    # SpotTune's policy networks (section 4.1): one block per stage, two logits per routed block.
    "resnet26_policy": _decathlon(1),
    "resnet50_policy": _imagenet(BasicBlock, 1, 1, 1, 1),
}
