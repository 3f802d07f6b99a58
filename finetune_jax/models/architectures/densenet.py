"""DenseNet-121.

Source: Huang et al., "Densely Connected Convolutional Networks" (CVPR 2017), the variant with bottlenecks and
compression. A block here is one dense layer, which hands on its input with its own channels behind it; the
transition between two stages belongs to the first block of the second one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.models.architectures.resnet import ImageNetStem
from finetune_jax.models.heads import NormalizedClassifier
from finetune_jax.models.layers.basic import Conv, Numerics, average_pool, conv_norm, norm, scaled
from finetune_jax.models.network import Network, PlainBuilder, TorchNames


class DenseBlock(nn.Module):
    """Norm, ReLU, 1×1 convolution, norm, ReLU, 3×3 convolution to ``growth`` channels, appended to the input.

    Attributes:
        growth: new channels.
        bottleneck: channels between the two convolutions.
        transition: channels of a transition before all that (norm, ReLU, 1×1 convolution, 2×2 average); None
            for none.
        numerics: of the run.
    """

    growth: int
    bottleneck: int
    transition: int | None
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H, W, C + growth]``, or ``[B, H/2, W/2, transition + growth]``."""
        dtype = self.numerics.dtype
        if self.transition is not None:
            x = norm(self.numerics, "transition_norm")(x, train, "relu")
            x = Conv(self.transition, 1, dtype=dtype, name="transition_conv")(x)
            x = average_pool(x, 2, 2)
        y = norm(self.numerics, "norm1")(x, train, "relu")
        conv = Conv(self.bottleneck, 1, dtype=dtype, name="conv1")
        y = conv_norm(conv, norm(self.numerics, "norm2"), y, train, "relu")
        y = Conv(self.growth, 3, dtype=dtype, name="conv2")(y)
        return jnp.concatenate([x, y], -1)


_DEPTHS = (6, 12, 24, 16)
_GROWTH = 32


def _densenet121(name: str, num_classes: int, width: float, numerics: Numerics) -> Network:
    growth, channels = scaled(_GROWTH, width), scaled(2 * _GROWTH, width)
    blocks = []
    for stage, depth in enumerate(_DEPTHS):
        for index in range(depth):
            transition = None
            if stage > 0 and index == 0:
                channels = transition = channels // 2
            blocks.append(DenseBlock(growth, 4 * growth, transition, numerics))
            channels += growth
    return Network(
        architecture=name,
        width=width,
        num_classes=num_classes,
        stem=ImageNetStem(scaled(2 * _GROWTH, width), numerics),
        blocks=tuple(blocks),
        head=NormalizedClassifier(num_classes, numerics),
        torch_names=_torch_names(""),
        other_torch_names=(_torch_names("."),),
    )


def _torch_names(separator: str) -> TorchNames:
    """Those of torchvision; its older files have a dot (``separator``) before the number of a layer."""
    blocks = []
    for stage, depth in enumerate(_DEPTHS, 1):
        for index in range(1, depth + 1):
            prefix = f"features.denseblock{stage}.denselayer{index}."
            names = {
                f"{kind}{i}": f"{prefix}{kind}{separator}{i}" for kind in ("norm", "conv") for i in (1, 2)
            }
            if stage > 1 and index == 1:
                before = f"features.transition{stage - 1}."
                names |= {"transition_norm": before + "norm", "transition_conv": before + "conv"}
            blocks.append(names)
    return TorchNames(
        {"conv": "features.conv0", "norm": "features.norm0"},
        tuple(blocks),
        {"norm": "features.norm5", "classifier": "classifier"},
    )


BUILDERS: dict[str, PlainBuilder] = {"densenet121": _densenet121}
