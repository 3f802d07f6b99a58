"""Vision transformers: ViT, DeiT-3, MAE, DINOv2 and -v3, SigLIP, under timm's names.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021); Touvron et al., "DeiT III" (ECCV 2022); He et
al., "Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022); Oquab et al., "DINOv2" (2023); Darcet et al.,
"Vision Transformers Need Registers" (ICLR 2024); Siméoni et al., "DINOv3" (2025); Zhai et al., "Sigmoid Loss for
Language Image Pre-Training" (ICCV 2023).

The stem makes tokens of an image: one of each patch, with its learned position where the network has such a table, and
class and register tokens in front. A block is one encoder block. The head has the last norm, the pooling and the
classifier.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.errors import UserError
from finetune_jax.models.architectures.transformer_names import namings
from finetune_jax.models.heads import PooledClassifier
from finetune_jax.models.layers.attention import QueryBias, self_attention_layers
from finetune_jax.models.layers.basic import Numerics
from finetune_jax.models.layers.linear import LayerNorm, LayerScale
from finetune_jax.models.layers.mlp import GatedActivation, mlp_layers
from finetune_jax.models.layers.patches import PatchConv
from finetune_jax.models.layers.positions import Rotation
from finetune_jax.models.layers.stochastic_depth import drops, rates, residual
from finetune_jax.models.layers.token_pooling import LearnedTokens, Pool, TokenPooling
from finetune_jax.models.network import Builder, Network
from finetune_jax.models.options import Options, TokenGrid


class PatchStem(nn.Module):
    """Tokens of an image: a dense layer of each patch, positions, class and register tokens.

    Attributes:
        features: channels of a token.
        patch: side of a patch, in pixels.
        grid: of the tokens.
        registers: how many of the tokens in front are registers.
        positions: whether there is a table of learned positions.
        numerics: of the run.
    """

    features: int
    patch: int
    grid: TokenGrid
    registers: int
    positions: bool
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, 3] → [B, prefix + side², features]``."""
        del train
        side, patch = self.grid.side, self.patch
        if any(pixels // patch != side for pixels in x.shape[1:3]):
            raise ValueError(
                f"the network is made for images of {side * patch} × {side * patch} pixels, not {x.shape[1]} × "
                f"{x.shape[2]}; give models.create image_size="
            )
        dtype = self.numerics.dtype
        # Pixels beyond the last patch are left out.
        x = PatchConv(self.features, patch, dtype, name="patches")(x).reshape(
            x.shape[0], side * side, self.features
        )
        table = None
        if self.positions:
            rows = self.grid.placed + side * side
            table = LearnedPositions(rows, self.features, name="positions")().astype(dtype)
            x = x + table[self.grid.placed :]
        front = []
        if self.grid.prefix > self.registers:
            front.append(LearnedTokens(1, self.features, 1e-6, name="class_token")().astype(dtype))
        if self.registers:
            front.append(LearnedTokens(self.registers, self.features, 1e-6, name="registers")().astype(dtype))
        if not front:
            return x
        tokens = jnp.concatenate(front)
        if self.grid.placed and table is not None:
            tokens = tokens + table[: self.grid.placed]
        return jnp.concatenate([jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape)), x], axis=1)


class LearnedPositions(nn.Module):
    """A table of learned positions."""

    rows: int
    channels: int

    @nn.compact
    def __call__(self) -> jax.Array:
        """``[rows, channels]`` float32."""
        init = nn.initializers.truncated_normal(0.02)
        return self.param("embedding", init, (self.rows, self.channels), jnp.float32)


class EncoderBlock(nn.Module):
    """Attention and two dense layers, a norm before each and a shortcut around each.

    Attributes:
        heads: of the attention.
        hidden: channels between the dense layers.
        activation: there.
        query_bias: which of queries, keys and values have a bias.
        layer_scale: initial factor of the branches' channels; None for none.
        rotation: of queries and keys, None for none.
        epsilon: of the norms.
        numerics: of the run.
    """

    heads: int
    hidden: int
    activation: GatedActivation
    query_bias: QueryBias
    layer_scale: float | None
    rotation: Rotation | None
    epsilon: float
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, S, C] → [B, S, C]``."""
        del train
        dtype = self.numerics.dtype
        # Where a branch is added as it is, the product that it ends with adds it.
        plain = self.layer_scale is None and not drops(self)
        y = LayerNorm(self.epsilon, dtype, name="norm1")(x)
        y = self_attention_layers(
            y,
            self.heads,
            bias=self.query_bias,
            rotation=self.rotation,
            dtype=dtype,
            residual=x if plain else None,
        )
        x = y if plain else residual(self, x, self._scaled(y, "scale1"), 1)
        y = LayerNorm(self.epsilon, dtype, name="norm2")(x)
        y = mlp_layers(y, self.hidden, self.activation, dtype, residual=x if plain else None)
        return y if plain else residual(self, x, self._scaled(y, "scale2"), 2)

    def _scaled(self, x: jax.Array, name: str) -> jax.Array:
        return x if self.layer_scale is None else _layer_scale(x, self.layer_scale, name)


def _layer_scale(x: jax.Array, initial: float, name: str) -> jax.Array:
    return LayerScale(initial, name=name)(x)


@dataclass(frozen=True)
class Shape:
    """What tells one vision transformer from another.

    Attributes:
        features: channels of a token.
        depth: number of blocks.
        heads: of the attention.
        patch: side of a patch, in pixels.
        image_size: side of the images that the weights were trained on.
        hidden: channels between a block's dense layers; None is four times ``features``.
        activation: there.
        class_token: whether the first token is the class's.
        registers: tokens in front that nothing is read from.
        positions: the learned table has entries for the patches and the tokens in front (``all``), for the patches
            (``patches``), or there is none and queries and keys are turned (``rotary``).
        pool: how the weights were trained to become an embedding.
        layer_scale: initial factor of the branches' channels; None for none.
        query_bias: which of queries, keys and values have a bias.
        epsilon: of the norms.
        eva: timm's names are those of its EVA networks.
    """

    features: int
    depth: int
    heads: int
    patch: int = 16
    image_size: int = 224
    hidden: int | None = None
    activation: GatedActivation = "gelu"
    class_token: bool = True
    registers: int = 0
    positions: Literal["all", "patches", "rotary"] = "all"
    pool: Pool = "token"
    layer_scale: float | None = None
    query_bias: QueryBias = "all"
    epsilon: float = 1e-6
    eva: bool = False


def vision_transformer(
    name: str, shape: Shape, num_classes: int, width: float, numerics: Numerics, options: Options
) -> Network:
    """A vision transformer; ``width`` scales the number of heads, and with it all channels.

    Raises:
        UserError: patches do not divide the images, or the network has no such pooling.
    """
    heads = max(1, round(shape.heads * width))
    features = shape.features // shape.heads * heads
    hidden = round((shape.hidden or 4 * shape.features) * features / shape.features)
    side = _patches_per_side(name, shape, options.image_size or shape.image_size)
    prefix = shape.class_token + shape.registers
    grid = TokenGrid(prefix, side, prefix if shape.positions == "all" else 0)
    block = EncoderBlock(
        heads=heads,
        hidden=hidden,
        activation=shape.activation,
        query_bias=shape.query_bias,
        layer_scale=shape.layer_scale,
        rotation=Rotation(side, prefix) if shape.positions == "rotary" else None,
        epsilon=shape.epsilon,
        numerics=numerics,
    )
    pool = _pool(name, shape, options.pool)
    mlp_activation: GatedActivation = "gelu" if shape.activation == "swiglu" else shape.activation
    pooling = TokenPooling(pool, prefix, shape.epsilon, heads, hidden, mlp_activation, numerics)
    first, *others = namings(
        shape.depth,
        eva=shape.eva,
        gated=shape.activation == "swiglu",
        scaled=shape.layer_scale is not None,
        plain=shape.class_token and shape.positions == "all" and pool != "map",
    )
    return Network(
        architecture=name,
        width=width,
        num_classes=num_classes,
        stem=PatchStem(features, shape.patch, grid, shape.registers, shape.positions != "rotary", numerics),
        blocks=(block,) * shape.depth,
        head=PooledClassifier(num_classes, pooling, options.dropout),
        torch_names=first,
        other_torch_names=tuple(others),
        image_size=options.image_size or shape.image_size,
        tokens=grid,
        pooling=pooling,
        options=dataclasses.replace(options, pool=pool),
        drop_path_rates=rates(options.drop_path, shape.depth),
        with_part_below=("head/tokens_norm",),
    )


def _patches_per_side(name: str, shape: Shape, image_size: int) -> int:
    # One published size is not divided by its patch, and its last pixels are left out.
    if image_size % shape.patch and image_size != shape.image_size:
        near = round(image_size / shape.patch) * shape.patch or shape.patch
        raise UserError(
            f"--image_size={image_size}: the patches of {name} are {shape.patch} pixels wide, which does not divide "
            f"it; {near} is near"
        )
    return image_size // shape.patch


def _pool(name: str, shape: Shape, pool: str) -> Pool:
    having: tuple[Pool, ...] = ("token", "mean", "both") if shape.class_token else ("mean",)
    having = (*having, "map")
    for known in having:
        if (pool or shape.pool) == known:
            return known
    raise UserError(f"--pool={pool} is not for {name}; choose one of {', '.join(having)}")


_SIZES = {
    "tiny": Shape(192, 12, 3),
    "small": Shape(384, 12, 6),
    "medium": Shape(512, 12, 8),
    "base": Shape(768, 12, 12),
    "large": Shape(1024, 24, 16),
    "huge": Shape(1280, 32, 16),
    "small_plus": Shape(384, 12, 6, activation="swiglu"),
    "huge_plus": Shape(1280, 32, 20, activation="swiglu"),
    "so400m": Shape(1152, 27, 16, hidden=4304),
    "giant": Shape(1536, 40, 24, hidden=4096, activation="swiglu"),
    "giantopt": Shape(1536, 40, 16),
}


def _shapes() -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}

    def add(name: str, size: str, **settings: object) -> None:
        shapes[name] = dataclasses.replace(_SIZES[size], **settings)  # type: ignore[arg-type]

    published = {
        "tiny": ((16, 224), (16, 384)),
        "small": ((8, 224), (16, 224), (16, 384), (32, 224), (32, 384)),
        "base": ((8, 224), (16, 224), (16, 384), (32, 224), (32, 384)),
        "large": ((14, 224), (16, 224), (16, 384), (32, 224), (32, 384)),
    }
    for size, variants in published.items():
        for patch, pixels in variants:
            add(f"vit_{size}_patch{patch}_{pixels}", size, patch=patch, image_size=pixels)
    deit = {
        "small": ((16, 224), (16, 384)),
        "medium": ((16, 224),),
        "base": ((16, 224), (16, 384)),
        "large": ((16, 224), (16, 384)),
        "huge": ((14, 224),),
    }
    for size, variants in deit.items():
        for patch, pixels in variants:
            add(
                f"deit3_{size}_patch{patch}_{pixels}",
                size,
                patch=patch,
                image_size=pixels,
                positions="patches",
                layer_scale=1e-6,
            )
    for size in ("small", "base", "large", "giant"):
        dinov2 = {"patch": 14, "image_size": 518, "layer_scale": 1e-5}
        add(f"vit_{size}_patch14_dinov2", size, **dinov2)
        add(f"vit_{size}_patch14_reg4_dinov2", size, **dinov2, registers=4, positions="patches")
    dinov3 = {
        "image_size": 256,
        "registers": 4,
        "positions": "rotary",
        "pool": "mean",
        "layer_scale": 1e-5,
        "query_bias": "none",
        "epsilon": 1e-5,
        "eva": True,
    }
    for size in ("small", "small_plus", "base", "large", "huge_plus"):
        add(f"vit_{size}_patch16_dinov3", size, **dinov3)
    for size in ("tiny", "small", "small_plus", "base", "large", "huge_plus"):
        add(f"vit_{size}_patch16_dinov3_qkvb", size, **{**dinov3, "query_bias": "query_value"})
    siglip = {
        ("base", 32): (256,),
        ("base", 16): (224, 256, 384, 512),
        ("large", 16): (256, 384, 512),
        ("so400m", 14): (224, 378, 384),
        ("so400m", 16): (256, 384, 512),
        ("giantopt", 16): (256, 384),
    }
    approximated = {("base", 32, 256), ("large", 16, 512), *(("so400m", 16, s) for s in (256, 384, 512))}
    approximated |= {("giantopt", 16, s) for s in (256, 384)}
    for (size, patch), sides in siglip.items():
        # PaliGemma's towers come without the attention that SigLIP pools with.
        averaged = (*sides, 448, 896) if (size, patch) == ("so400m", 14) else sides
        for gap, pixels in (*((False, s) for s in sides), *((True, s) for s in averaged)):
            add(
                f"vit_{size}_patch{patch}_siglip_{'gap_' if gap else ''}{pixels}",
                size,
                patch=patch,
                image_size=pixels,
                class_token=False,
                pool="mean" if gap else "map",
                activation="gelu_tanh" if (size, patch, pixels) in approximated else "gelu",
            )
    return shapes


def _builder(shape: Shape) -> Builder:
    return lambda name, num_classes, width, numerics, options: vision_transformer(
        name, shape, num_classes, width, numerics, options
    )


BUILDERS: dict[str, Builder] = {name: _builder(shape) for name, shape in _shapes().items()}
