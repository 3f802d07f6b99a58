"""ConvNeXt V1 and V2, under timm's names.

Sources: Liu et al., "A ConvNet for the 2020s" (CVPR 2022); Woo et al., "ConvNeXt V2" (CVPR 2023). A block is one block
of a stage; the downsampling between two stages belongs to the first block of the second one. The head has a norm
behind the pooling.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.models.heads import PooledClassifier
from finetune_jax.models.layers.basic import DepthwiseConv, Numerics, global_average, scaled
from finetune_jax.models.layers.batch_norm import at_least_float32
from finetune_jax.models.layers.linear import Bias, LayerNorm, LayerScale, Linear
from finetune_jax.models.layers.patches import PatchConv
from finetune_jax.models.layers.stochastic_depth import rates, residual
from finetune_jax.models.network import Builder, Network, TorchNames
from finetune_jax.models.options import Options

_EPSILON = 1e-6


class PatchStem(nn.Module):
    """4×4 convolution of patches side by side, and a norm."""

    features: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, 3] → [B, H/4, W/4, features]``."""
        del train
        x = PatchConv(self.features, 4, self.numerics.dtype, name="conv")(x)
        return LayerNorm(_EPSILON, self.numerics.dtype, name="norm")(x)


class ConvNeXtBlock(nn.Module):
    """7×7 convolution of each channel, norm, and two dense layers with four times the channels between them.

    Attributes:
        features: channels of the output.
        downsample: whether a norm and a 2×2 convolution of stride 2 come first.
        layer_scale: whether the branch has a factor per channel (V1), or the response is normalised between the dense
            layers (V2).
        numerics: of the run.
    """

    features: int
    downsample: bool
    layer_scale: bool
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H, W, features]``, half as high and wide with ``downsample``."""
        del train
        dtype = self.numerics.dtype
        if self.downsample:
            x = LayerNorm(_EPSILON, dtype, name="downsample_norm")(x)
            x = PatchConv(self.features, 2, dtype, name="downsample_conv")(x)
        y = DepthwiseConv(7, dtype=dtype, name="depthwise")(x)
        y = y + Bias(self.features, name="depthwise_bias")().astype(dtype)
        y = LayerNorm(_EPSILON, dtype, name="norm")(y)
        y = Linear(4 * self.features, dtype=dtype, name="fc1")(y, "gelu")
        if not self.layer_scale:
            y = ResponseNorm(name="response_norm")(y)
        y = Linear(self.features, dtype=dtype, name="fc2")(y)
        if self.layer_scale:
            y = LayerScale(1e-6, name="layer_scale")(y)
        return residual(self, x, y)


class ResponseNorm(nn.Module):
    """Global response normalisation: channels that answer strongly over the whole image are made stronger still."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Like ``x [B, H, W, C]``."""
        scale = self.param("scale", nn.initializers.zeros_init(), x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), x.shape[-1:], jnp.float32)
        wide = x.astype(at_least_float32(x))
        squares = jnp.square(wide).sum((1, 2), keepdims=True)
        # A channel without any answer has no slope, which a square root alone would make infinite.
        answers = squares > 0
        norm = jnp.where(answers, jnp.sqrt(jnp.where(answers, squares, 1)), 0)
        share = norm / (norm.mean(-1, keepdims=True) + _EPSILON)
        return (wide * (1 + scale * share) + bias).astype(x.dtype)


@dataclass(frozen=True)
class NormalizedAverage:
    """Global average pooling and a norm; makes its layer in the module that calls it."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, H, W, C] → [B, C]`` in at least float32."""
        x = global_average(x)
        return LayerNorm(_EPSILON, x.dtype, name="pooled_norm")(x)


@dataclass(frozen=True)
class Shape:
    """What tells one ConvNeXt from another.

    Attributes:
        depths: blocks of each stage.
        features: channels of the first stage, doubled in every other.
        second: whether it is of the second version.
        pointwise: timm keeps its dense layers as 1×1 convolutions.
    """

    depths: tuple[int, ...]
    features: int
    second: bool = False
    pointwise: bool = False


def convnext(
    name: str, shape: Shape, num_classes: int, width: float, numerics: Numerics, options: Options
) -> Network:
    """A ConvNeXt; ``width`` scales all channels."""
    blocks = tuple(
        ConvNeXtBlock(
            scaled(shape.features * 2**stage, width), stage > 0 and index == 0, not shape.second, numerics
        )
        for stage, index in _positions(shape)
    )
    model = "convnextv2." if shape.second else "convnext."
    pooling = NormalizedAverage()
    return Network(
        architecture=name,
        width=width,
        num_classes=num_classes,
        stem=PatchStem(scaled(shape.features, width), numerics),
        blocks=blocks,
        head=PooledClassifier(num_classes, pooling, options.dropout),
        torch_names=_timm_names(shape),
        other_torch_names=(_hugging_face_names(shape, model), _hugging_face_names(shape, "")),
        pooling=pooling,
        options=options.of_images(),
        drop_path_rates=rates(options.drop_path, len(blocks)),
    )


def _positions(shape: Shape) -> list[tuple[int, int]]:
    return [(stage, index) for stage, depth in enumerate(shape.depths) for index in range(depth)]


def _timm_names(shape: Shape) -> TorchNames:
    layers = {
        "depthwise": "conv_dw",
        "depthwise_bias": "conv_dw.bias",
        "norm": "norm",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        **({"response_norm": "mlp.grn"} if shape.second else {"layer_scale": "gamma"}),
    }
    return TorchNames(
        {"conv": "stem.0", "norm": "stem.1"},
        _of_blocks(shape, layers, "stages.{}.blocks.{}.", "stages.{}.downsample."),
        {"classifier": "head.fc"},
        pooling={"pooled_norm": "head.norm"},
        pointwise=("fc1", "fc2") if shape.pointwise else (),
        classifier_optional=True,
    )


def _hugging_face_names(shape: Shape, prefix: str) -> TorchNames:
    """Those of ``ConvNextModel`` and ``ConvNextV2Model``."""
    layers = {
        "depthwise": "dwconv",
        "depthwise_bias": "dwconv.bias",
        "norm": "layernorm",
        "fc1": "pwconv1",
        "fc2": "pwconv2",
        **({"response_norm": "grn"} if shape.second else {"layer_scale": "layer_scale_parameter"}),
    }
    stages = prefix + "encoder.stages.{}."
    return TorchNames(
        {"conv": f"{prefix}embeddings.patch_embeddings", "norm": f"{prefix}embeddings.layernorm"},
        _of_blocks(shape, layers, stages + "layers.{}.", stages + "downsampling_layer."),
        {"classifier": "classifier"},
        pooling={"pooled_norm": f"{prefix}layernorm"},
        broadcast=("response_norm",),
        classifier_optional=True,
    )


def _of_blocks(
    shape: Shape, layers: Mapping[str, str], block: str, downsampling: str
) -> tuple[Mapping[str, str], ...]:
    blocks = []
    for stage, index in _positions(shape):
        prefix, before = block.format(stage, index), downsampling.format(stage)
        names = {layer: prefix + place for layer, place in layers.items()}
        if stage > 0 and index == 0:
            names |= {"downsample_norm": f"{before}0", "downsample_conv": f"{before}1"}
        blocks.append(names)
    return tuple(blocks)


_SMALL, _SMALLER = (3, 3, 27, 3), (2, 2, 6, 2)
_SHAPES = {
    "atto": Shape(_SMALLER, 40, pointwise=True),
    "femto": Shape(_SMALLER, 48, pointwise=True),
    "pico": Shape(_SMALLER, 64, pointwise=True),
    "nano": Shape((2, 2, 8, 2), 80, pointwise=True),
    "tiny": Shape((3, 3, 9, 3), 96),
    "small": Shape(_SMALL, 96),
    "base": Shape(_SMALL, 128),
    "large": Shape(_SMALL, 192),
}


def _builder(shape: Shape) -> Builder:
    return lambda name, num_classes, width, numerics, options: convnext(
        name, shape, num_classes, width, numerics, options
    )


BUILDERS: dict[str, Builder] = {
    **{f"convnext_{size}": _builder(shape) for size, shape in _SHAPES.items()},
    "convnext_xlarge": _builder(Shape(_SMALL, 256)),
    **{f"convnextv2_{size}": _builder(replace(shape, second=True)) for size, shape in _SHAPES.items()},
    "convnextv2_huge": _builder(Shape(_SMALL, 352, second=True)),
}
