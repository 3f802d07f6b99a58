"""MobileNet-V3 small and large.

Source: Howard et al., "Searching for MobileNetV3" (ICCV 2019), Tables 1 and 2. The last 1×1 convolution before the
pooling is the last block; the one behind it is a dense layer of the head, so that embeddings are what the classifier
sees.
"""

from dataclasses import dataclass

import jax

from finetune_jax.models.architectures.squeezed_residual import (
    POINTWISE,
    ActivatedConv,
    Row,
    blocks_of,
    divisible,
    timm_block_names,
)
from finetune_jax.models.heads import PooledClassifier
from finetune_jax.models.layers.basic import Numerics, global_average, scaled
from finetune_jax.models.layers.linear import Linear
from finetune_jax.models.layers.squeeze_excite import SmoothActivation
from finetune_jax.models.layers.stochastic_depth import rates
from finetune_jax.models.network import Builder, Network, TorchNames
from finetune_jax.models.options import Options

_STEM = 16


@dataclass(frozen=True)
class WidenedAverage:
    """Global average pooling, a dense layer and hard swish; makes its layer in the module that calls it."""

    features: int

    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, H, W, C] → [B, features]`` in at least float32."""
        x = global_average(x)
        return jax.nn.hard_swish(Linear(self.features, dtype=x.dtype, name="pooled_dense")(x))


def _row(
    stage: int, kernel_size: int, expanded: int, features: int, squeeze: bool, activation: str, stride: int
) -> Row:
    used: SmoothActivation = "hard_swish" if activation == "hs" else "relu"
    squeezed = divisible(expanded / 4) if squeeze else 0
    return Row(features, expanded, kernel_size, stride, squeezed, used, stage > 0, stage)


_SMALL = (
    _row(0, 3, 16, 16, True, "re", 2),
    _row(1, 3, 72, 24, False, "re", 2),
    _row(1, 3, 88, 24, False, "re", 1),
    _row(2, 5, 96, 40, True, "hs", 2),
    _row(2, 5, 240, 40, True, "hs", 1),
    _row(2, 5, 240, 40, True, "hs", 1),
    _row(3, 5, 120, 48, True, "hs", 1),
    _row(3, 5, 144, 48, True, "hs", 1),
    _row(4, 5, 288, 96, True, "hs", 2),
    _row(4, 5, 576, 96, True, "hs", 1),
    _row(4, 5, 576, 96, True, "hs", 1),
)
_LARGE = (
    _row(0, 3, 16, 16, False, "re", 1),
    _row(1, 3, 64, 24, False, "re", 2),
    _row(1, 3, 72, 24, False, "re", 1),
    _row(2, 5, 72, 40, True, "re", 2),
    _row(2, 5, 120, 40, True, "re", 1),
    _row(2, 5, 120, 40, True, "re", 1),
    _row(3, 3, 240, 80, False, "hs", 2),
    _row(3, 3, 200, 80, False, "hs", 1),
    _row(3, 3, 184, 80, False, "hs", 1),
    _row(3, 3, 184, 80, False, "hs", 1),
    _row(4, 3, 480, 112, True, "hs", 1),
    _row(4, 3, 672, 112, True, "hs", 1),
    _row(5, 5, 672, 160, True, "hs", 2),
    _row(5, 5, 960, 160, True, "hs", 1),
    _row(5, 5, 960, 160, True, "hs", 1),
)


def _mobilenet_v3(rows: tuple[Row, ...], last: int, embedding: int) -> Builder:
    def build(name: str, num_classes: int, width: float, numerics: Numerics, options: Options) -> Network:
        pooling = WidenedAverage(scaled(embedding, width))
        blocks = blocks_of(rows, _STEM, width, numerics, hard=True)
        widened = ActivatedConv(scaled(last, width), 1, 1, "hard_swish", numerics)
        end = f"blocks.{rows[-1].stage + 1}.0."
        return Network(
            architecture=name,
            width=width,
            num_classes=num_classes,
            stem=ActivatedConv(scaled(_STEM, width), 3, 2, "hard_swish", numerics),
            blocks=(*blocks, widened),
            head=PooledClassifier(num_classes, pooling, options.dropout),
            torch_names=TorchNames(
                {"conv": "conv_stem", "norm": "bn1"},
                (*timm_block_names(rows), {"conv": f"{end}conv", "norm": f"{end}bn1"}),
                {"classifier": "classifier"},
                pooling={"pooled_dense": "conv_head"},
                pointwise=(*POINTWISE, "pooled_dense"),
            ),
            pooling=pooling,
            options=options.of_images(),
            drop_path_rates=rates(options.drop_path, len(blocks) + 1),
        )

    return build


BUILDERS: dict[str, Builder] = {
    "mobilenetv3_small_100": _mobilenet_v3(_SMALL, 576, 1024),
    "mobilenetv3_large_100": _mobilenet_v3(_LARGE, 960, 1280),
}
