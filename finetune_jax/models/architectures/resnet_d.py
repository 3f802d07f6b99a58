"""ResNet-26-D, -50-D and -101-D.

Source: He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks" (CVPR 2019): three 3×3
convolutions in the stem, and an average before the 1×1 convolution of a shortcut with a stride. (``resnet26`` without
the letter is the Visual Decathlon's.)
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.models.heads import PooledClassifier
from finetune_jax.models.layers.basic import (
    Conv,
    Numerics,
    average_pool,
    conv_norm,
    max_pool_3x3,
    norm,
    scaled,
)
from finetune_jax.models.layers.stochastic_depth import rates, residual
from finetune_jax.models.network import Builder, Network, TorchNames
from finetune_jax.models.options import Options


class DeepStem(nn.Module):
    """Three 3×3 convolutions, the first with stride 2, norm and ReLU behind each; 3×3 maximum with stride 2."""

    features: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H/4, W/4, features]``."""
        half = max(1, self.features // 2)
        for number, (features, stride) in enumerate(((half, 2), (half, 1), (self.features, 1)), 1):
            conv = Conv(features, 3, stride, dtype=self.numerics.dtype, name=f"conv{number}")
            x = conv_norm(conv, norm(self.numerics, f"norm{number}"), x, train, "relu")
        return max_pool_3x3(x)


class AveragedBottleneck(nn.Module):
    """1×1, 3×3 (strided), 1×1 convolution; the shortcut is averaged before it is projected."""

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
            x = _averaged(x) if self.stride == 2 else x
            conv = Conv(4 * self.features, 1, dtype=dtype, name="shortcut_conv")
            x = conv_norm(conv, norm(self.numerics, "shortcut_norm"), x, train)
        conv = Conv(4 * self.features, 1, dtype=dtype, name="conv3")
        return jax.nn.relu(residual(self, x, conv_norm(conv, norm(self.numerics, "norm3"), y, train)))


def _averaged(x: jax.Array) -> jax.Array:
    """Mean of 2×2 pixels; of an odd side's last pixels, the mean of those that are there."""
    pads = ((0, x.shape[1] % 2), (0, x.shape[2] % 2))
    mean = average_pool(x, 2, 2, pads)
    if pads == ((0, 0), (0, 0)):
        return mean
    return mean / average_pool(jnp.ones((1, *x.shape[1:3], 1), x.dtype), 2, 2, pads)


def _resnet_d(depths: Sequence[int]) -> Builder:
    def build(name: str, num_classes: int, width: float, numerics: Numerics, options: Options) -> Network:
        blocks, names = [], []
        for stage, depth in enumerate(depths):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(AveragedBottleneck(scaled(64 * 2**stage, width), stride, index == 0, numerics))
                prefix = f"layer{stage + 1}.{index}."
                of_block = {f"conv{i}": f"{prefix}conv{i}" for i in (1, 2, 3)}
                of_block |= {f"norm{i}": f"{prefix}bn{i}" for i in (1, 2, 3)}
                if index == 0:
                    of_block |= {
                        "shortcut_conv": f"{prefix}downsample.1",
                        "shortcut_norm": f"{prefix}downsample.2",
                    }
                names.append(of_block)
        stem = {"conv1": "conv1.0", "norm1": "conv1.1", "conv2": "conv1.3", "norm2": "conv1.4"}
        return Network(
            architecture=name,
            width=width,
            num_classes=num_classes,
            stem=DeepStem(scaled(64, width), numerics),
            blocks=tuple(blocks),
            head=PooledClassifier(num_classes, dropout=options.dropout),
            torch_names=TorchNames(
                {**stem, "conv3": "conv1.6", "norm3": "bn1"}, tuple(names), {"classifier": "fc"}
            ),
            options=options.of_images(),
            drop_path_rates=rates(options.drop_path, len(blocks)),
        )

    return build


BUILDERS: dict[str, Builder] = {
    "resnet26d": _resnet_d((2, 2, 2, 2)),
    "resnet50d": _resnet_d((3, 4, 6, 3)),
    "resnet101d": _resnet_d((3, 4, 23, 3)),
}
