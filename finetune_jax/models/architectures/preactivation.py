"""ResNet-50 and -101 with norm and ReLU before each convolution ("v2").

Source: He et al., "Identity Mappings in Deep Residual Networks" (ECCV 2016), with the stride in the 3×3
convolution of a bottleneck, as timm has it. The last norm and ReLU belong to the head.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from finetune_jax.models.heads import NormalizedClassifier
from finetune_jax.models.layers.basic import Conv, Numerics, conv_norm, max_pool_3x3, norm, scaled
from finetune_jax.models.network import Network, PlainBuilder, TorchNames


class PlainStem(nn.Module):
    """7×7 convolution with stride 2, 3×3 maximum with stride 2."""

    features: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H/4, W/4, features]``."""
        del train
        return max_pool_3x3(Conv(self.features, 7, 2, dtype=self.numerics.dtype, name="conv")(x))


class PreactivationBlock(nn.Module):
    """1×1, 3×3 (strided), 1×1 convolution with four times the features, norm and ReLU before each.

    A projected shortcut starts behind the first norm and ReLU.
    """

    features: int
    stride: int
    project: bool
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H/stride, W/stride, 4·features]``."""
        dtype = self.numerics.dtype
        y = norm(self.numerics, "norm1")(x, train, "relu")
        if self.project:
            x = Conv(4 * self.features, 1, self.stride, dtype=dtype, name="shortcut_conv")(y)
        conv = Conv(self.features, 1, dtype=dtype, name="conv1")
        y = conv_norm(conv, norm(self.numerics, "norm2"), y, train, "relu")
        conv = Conv(self.features, 3, self.stride, dtype=dtype, name="conv2")
        y = conv_norm(conv, norm(self.numerics, "norm3"), y, train, "relu")
        return x + Conv(4 * self.features, 1, dtype=dtype, name="conv3")(y)


def _resnet_v2(depths: Sequence[int]) -> PlainBuilder:
    def build(name: str, num_classes: int, width: float, numerics: Numerics) -> Network:
        blocks, torch_blocks = [], []
        for stage, depth in enumerate(depths):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                features = scaled(64 * 2**stage, width)
                blocks.append(PreactivationBlock(features, stride, index == 0, numerics))
                prefix = f"stages.{stage}.blocks.{index}."
                names = {f"{kind}{i}": f"{prefix}{kind}{i}" for kind in ("norm", "conv") for i in (1, 2, 3)}
                if index == 0:
                    names["shortcut_conv"] = prefix + "downsample.conv"
                torch_blocks.append(names)
        return Network(
            architecture=name,
            width=width,
            num_classes=num_classes,
            stem=PlainStem(scaled(64, width), numerics),
            blocks=tuple(blocks),
            head=NormalizedClassifier(num_classes, numerics),
            torch_names=TorchNames(
                {"conv": "stem.conv"},
                tuple(torch_blocks),
                {"norm": "norm", "classifier": "head.fc"},
                pointwise_classifier=True,
            ),
        )

    return build


BUILDERS: dict[str, PlainBuilder] = {
    "resnet50v2": _resnet_v2((3, 4, 6, 3)),
    "resnet101v2": _resnet_v2((3, 4, 23, 3)),
}
