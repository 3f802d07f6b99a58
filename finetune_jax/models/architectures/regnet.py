"""RegNetY from 200 MF to 16 GF.

Source: Radosavovic et al., "Designing Network Design Spaces" (CVPR 2020): residual bottlenecks without a narrower
middle, whose 3×3 convolution is grouped, with squeeze-and-excitation.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax

from finetune_jax.models.architectures.squeezed_residual import POINTWISE, ActivatedConv
from finetune_jax.models.heads import PooledClassifier
from finetune_jax.models.layers.basic import Conv, Numerics, conv_norm, norm, scaled
from finetune_jax.models.layers.grouped import GroupedConv
from finetune_jax.models.layers.squeeze_excite import squeeze_excite_layers
from finetune_jax.models.layers.stochastic_depth import rates, residual
from finetune_jax.models.network import Builder, Network, TorchNames
from finetune_jax.models.options import Options

_STEM = 32


class RegNetBlock(nn.Module):
    """1×1, grouped 3×3 (strided) and 1×1 convolution, squeeze-and-excitation before the last.

    Attributes:
        features: channels of all three.
        group: channels of a group.
        squeezed: channels that squeeze-and-excitation goes down to.
        stride: of the 3×3 convolution.
        project: whether the shortcut is a convolution.
        numerics: of the run.
    """

    features: int
    group: int
    squeezed: int
    stride: int
    project: bool
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H/stride, W/stride, features]``."""
        dtype = self.numerics.dtype
        conv = Conv(self.features, 1, dtype=dtype, name="conv1")
        y = conv_norm(conv, norm(self.numerics, "norm1"), x, train, "relu")
        grouped = GroupedConv(self.features, self.group, 3, self.stride, dtype, name="conv2")
        y = norm(self.numerics, "norm2")(grouped(y), train, "relu")
        y = squeeze_excite_layers(y, self.squeezed, "relu", hard=False, dtype=dtype)
        if self.project:
            conv = Conv(self.features, 1, self.stride, dtype=dtype, name="shortcut_conv")
            x = conv_norm(conv, norm(self.numerics, "shortcut_norm"), x, train)
        conv = Conv(self.features, 1, dtype=dtype, name="conv3")
        return jax.nn.relu(residual(self, x, conv_norm(conv, norm(self.numerics, "norm3"), y, train)))


@dataclass(frozen=True)
class Shape:
    """Channels and blocks of the four stages, and channels of a group of their convolutions."""

    features: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    group: int


def _regnet(shape: Shape) -> Builder:
    def build(name: str, num_classes: int, width: float, numerics: Numerics, options: Options) -> Network:
        blocks, names, before = [], [], _STEM
        for stage, (features, depth) in enumerate(zip(shape.features, shape.depths, strict=True), 1):
            # Whole groups, however narrow the network.
            wide = max(1, round(features * width / shape.group)) * shape.group
            for index in range(depth):
                squeezed = scaled(round(before / 4), width)
                first = index == 0
                blocks.append(RegNetBlock(wide, shape.group, squeezed, 2 if first else 1, first, numerics))
                names.append(_names(f"s{stage}.b{index + 1}.", first))
                before = features
        return Network(
            architecture=name,
            width=width,
            num_classes=num_classes,
            stem=ActivatedConv(scaled(_STEM, width), 3, 2, "relu", numerics),
            blocks=tuple(blocks),
            head=PooledClassifier(num_classes, dropout=options.dropout),
            torch_names=TorchNames(
                {"conv": "stem.conv", "norm": "stem.bn"},
                tuple(names),
                {"classifier": "head.fc"},
                pointwise=POINTWISE,
            ),
            options=options.of_images(),
            drop_path_rates=rates(options.drop_path, len(blocks)),
        )

    return build


def _names(prefix: str, project: bool) -> dict[str, str]:
    names = {f"conv{i}": f"{prefix}conv{i}.conv" for i in (1, 2, 3)}
    names |= {f"norm{i}": f"{prefix}conv{i}.bn" for i in (1, 2, 3)}
    names |= {"se_reduce": f"{prefix}se.fc1", "se_expand": f"{prefix}se.fc2"}
    if project:
        names |= {"shortcut_conv": f"{prefix}downsample.conv", "shortcut_norm": f"{prefix}downsample.bn"}
    return names


BUILDERS: dict[str, Builder] = {
    "regnety_002": _regnet(Shape((24, 56, 152, 368), (1, 1, 4, 7), 8)),
    "regnety_004": _regnet(Shape((48, 104, 208, 440), (1, 3, 6, 6), 8)),
    "regnety_006": _regnet(Shape((48, 112, 256, 608), (1, 3, 7, 4), 16)),
    "regnety_008": _regnet(Shape((64, 128, 320, 768), (1, 3, 8, 2), 16)),
    "regnety_016": _regnet(Shape((48, 120, 336, 888), (2, 6, 17, 2), 24)),
    "regnety_032": _regnet(Shape((72, 216, 576, 1512), (2, 5, 13, 1), 24)),
    "regnety_040": _regnet(Shape((128, 192, 512, 1088), (2, 6, 12, 2), 64)),
    "regnety_064": _regnet(Shape((144, 288, 576, 1296), (2, 7, 14, 2), 72)),
    "regnety_080": _regnet(Shape((168, 448, 896, 2016), (2, 4, 10, 1), 56)),
    "regnety_120": _regnet(Shape((224, 448, 896, 2240), (2, 5, 11, 1), 112)),
    "regnety_160": _regnet(Shape((224, 448, 1232, 3024), (2, 4, 11, 1), 112)),
}
