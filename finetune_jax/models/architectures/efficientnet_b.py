"""EfficientNet B0 to B4, with squeeze-and-excitation and SiLU, as PyTorch trains them.

Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019), Table 1,
with widths and depths multiplied by the compound rule. The last 1×1 convolution is the last block.
"""

import math

from finetune_jax.models.architectures.squeezed_residual import (
    POINTWISE,
    ActivatedConv,
    Row,
    blocks_of,
    divisible,
    timm_block_names,
)
from finetune_jax.models.heads import PooledClassifier
from finetune_jax.models.layers.basic import Numerics, scaled
from finetune_jax.models.layers.stochastic_depth import rates
from finetune_jax.models.network import Builder, Network, TorchNames
from finetune_jax.models.options import Options

# (expansion, channels, blocks, stride, kernel size) of each stage.
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def _rows(wider: float, deeper: float) -> tuple[Row, ...]:
    rows = []
    before = divisible(32 * wider)
    for stage, (expansion, channels, depth, stride, kernel_size) in enumerate(_STAGES):
        features = divisible(channels * wider)
        for index in range(math.ceil(depth * deeper)):
            rows.append(
                Row(
                    features,
                    expansion * before,
                    kernel_size,
                    stride if index == 0 else 1,
                    round(before / 4),
                    "silu",
                    expansion > 1,
                    stage,
                )
            )
            before = features
    return tuple(rows)


def _efficientnet(wider: float, deeper: float) -> Builder:
    rows, stem, last = _rows(wider, deeper), divisible(32 * wider), divisible(1280 * wider)

    def build(name: str, num_classes: int, width: float, numerics: Numerics, options: Options) -> Network:
        blocks = blocks_of(rows, stem, width, numerics, hard=False)
        return Network(
            architecture=name,
            width=width,
            num_classes=num_classes,
            stem=ActivatedConv(scaled(stem, width), 3, 2, "silu", numerics),
            blocks=(*blocks, ActivatedConv(scaled(last, width), 1, 1, "silu", numerics)),
            head=PooledClassifier(num_classes, dropout=options.dropout),
            torch_names=TorchNames(
                {"conv": "conv_stem", "norm": "bn1"},
                (*timm_block_names(rows), {"conv": "conv_head", "norm": "bn2"}),
                {"classifier": "classifier"},
                pointwise=POINTWISE,
            ),
            options=options.of_images(),
            drop_path_rates=rates(options.drop_path, len(blocks) + 1),
            with_part_below=(f"block_{len(blocks) + 1:02d}",),
        )

    return build


BUILDERS: dict[str, Builder] = {
    "efficientnet_b0": _efficientnet(1.0, 1.0),
    "efficientnet_b1": _efficientnet(1.0, 1.1),
    "efficientnet_b2": _efficientnet(1.1, 1.2),
    "efficientnet_b3": _efficientnet(1.2, 1.4),
    "efficientnet_b4": _efficientnet(1.4, 1.8),
}
