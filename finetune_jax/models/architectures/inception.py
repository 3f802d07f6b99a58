"""Inception-V3 without its auxiliary classifier.

Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (CVPR 2016), in torchvision's
form. The 13 blocks are those of Table 3 of AutoLR: the first three convolutions, the next two, and the eleven
mixed blocks. So nothing is left for the stem.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.errors import UserError
from finetune_jax.models.heads import PooledClassifier
from finetune_jax.models.layers.basic import (
    Conv,
    Numerics,
    Padding,
    average_pool,
    conv_norm,
    norm,
    scaled,
    symmetric,
)
from finetune_jax.models.layers.pooling import max_pool
from finetune_jax.models.network import Network, PlainBuilder, TorchNames

_EPSILON = 1e-3
_VALID = symmetric(0)


class EmptyStem(nn.Module):
    """Hands the images on; it has no parameters."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C]``, unchanged."""
        del train
        return x


class _Block(nn.Module):
    """What the blocks have in common: ``width`` is a factor on all channel numbers."""

    width: float
    numerics: Numerics

    def unit(
        self,
        x: jax.Array,
        train: bool,
        name: str,
        features: int,
        size: int | tuple[int, int],
        stride: int = 1,
        padding: Padding | None = None,
    ) -> jax.Array:
        """Convolution, batch norm, ReLU."""
        features, dtype = scaled(features, self.width), self.numerics.dtype
        conv = Conv(features, size, stride, padding, dtype, name=f"{name}_conv")
        return conv_norm(conv, norm(self.numerics, f"{name}_norm", _EPSILON), x, train, "relu")

    def reduction(self, x: jax.Array, train: bool, name: str, features: int) -> jax.Array:
        """3×3 unit with stride 2 and without padding."""
        return self.unit(x, train, name, features, 3, 2, _VALID)

    def check_size(self, x: jax.Array) -> None:
        """Refuse what a reduction leaves nothing of; initial parameters do not depend on the size."""
        if min(x.shape[1:3]) < 3 and not self.is_initializing():
            raise UserError("the images are too small for inception_v3, which needs at least 75×75 pixels")


class FirstConvolutions(_Block):
    """Conv2d_1a, 2a and 2b, 3×3 maximum: an eighth of the side in the end, less what padding would save."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, 3] → [B, ⌊(H − 7)/4⌋, ⌊(W − 7)/4⌋, 64]``, up to a pixel."""
        x = self.unit(x, train, "1a", 32, 3, 2, _VALID)
        x = self.unit(x, train, "2a", 32, 3, 1, _VALID)
        x = self.unit(x, train, "2b", 64, 3)
        return _max_pool(x)


class NextConvolutions(_Block):
    """Conv2d_3b and 4a, 3×3 maximum with stride 2."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, 64] → [B, ⌊(H − 3)/2⌋, ⌊(W − 3)/2⌋, 192]``."""
        x = self.unit(x, train, "3b", 80, 1)
        x = self.unit(x, train, "4a", 192, 3, 1, _VALID)
        return _max_pool(x)


class MixedA(_Block):
    """Mixed_5b to 5d (Figure 5 of the paper, a 5×5 kept): 1×1, 5×5, two 3×3, average."""

    pooled: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H, W, 224 + pooled]``."""
        narrow = self.unit(x, train, "branch1x1", 64, 1)
        wide = self.unit(x, train, "branch5x5_1", 48, 1)
        wide = self.unit(wide, train, "branch5x5_2", 64, 5)
        double = self.unit(x, train, "branch3x3dbl_1", 64, 1)
        double = self.unit(double, train, "branch3x3dbl_2", 96, 3)
        double = self.unit(double, train, "branch3x3dbl_3", 96, 3)
        pooled = self.unit(_average(x), train, "branch_pool", self.pooled, 1)
        return jnp.concatenate([narrow, wide, double, pooled], -1)


class ReductionA(_Block):
    """Mixed_6a: halves the side and keeps the input's channels in the maximum."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, ⌊(H − 1)/2⌋, ⌊(W − 1)/2⌋, C + 480]``."""
        self.check_size(x)
        single = self.reduction(x, train, "branch3x3", 384)
        double = self.unit(x, train, "branch3x3dbl_1", 64, 1)
        double = self.unit(double, train, "branch3x3dbl_2", 96, 3)
        double = self.reduction(double, train, "branch3x3dbl_3", 96)
        return jnp.concatenate([single, double, _max_pool(x)], -1)


class MixedB(_Block):
    """Mixed_6b to 6e (Figure 6): a 7×7 as 1×7 and 7×1, once and twice."""

    bottleneck: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H, W, 768]``."""
        inner = self.bottleneck
        narrow = self.unit(x, train, "branch1x1", 192, 1)
        single = self.unit(x, train, "branch7x7_1", inner, 1)
        single = self.unit(single, train, "branch7x7_2", inner, (1, 7))
        single = self.unit(single, train, "branch7x7_3", 192, (7, 1))
        double = self.unit(x, train, "branch7x7dbl_1", inner, 1)
        double = self.unit(double, train, "branch7x7dbl_2", inner, (7, 1))
        double = self.unit(double, train, "branch7x7dbl_3", inner, (1, 7))
        double = self.unit(double, train, "branch7x7dbl_4", inner, (7, 1))
        double = self.unit(double, train, "branch7x7dbl_5", 192, (1, 7))
        pooled = self.unit(_average(x), train, "branch_pool", 192, 1)
        return jnp.concatenate([narrow, single, double, pooled], -1)


class ReductionB(_Block):
    """Mixed_7a: halves the side and keeps the input's channels in the maximum."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, ⌊(H − 1)/2⌋, ⌊(W − 1)/2⌋, C + 512]``."""
        self.check_size(x)
        single = self.unit(x, train, "branch3x3_1", 192, 1)
        single = self.reduction(single, train, "branch3x3_2", 320)
        wide = self.unit(x, train, "branch7x7x3_1", 192, 1)
        wide = self.unit(wide, train, "branch7x7x3_2", 192, (1, 7))
        wide = self.unit(wide, train, "branch7x7x3_3", 192, (7, 1))
        wide = self.reduction(wide, train, "branch7x7x3_4", 192)
        return jnp.concatenate([single, wide, _max_pool(x)], -1)


class MixedC(_Block):
    """Mixed_7b and 7c (Figure 7): a 3×3 as 1×3 beside 3×1."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, H, W, 2048]``."""
        narrow = self.unit(x, train, "branch1x1", 320, 1)
        single = self.unit(x, train, "branch3x3_1", 384, 1)
        single_a = self.unit(single, train, "branch3x3_2a", 384, (1, 3))
        single_b = self.unit(single, train, "branch3x3_2b", 384, (3, 1))
        double = self.unit(x, train, "branch3x3dbl_1", 448, 1)
        double = self.unit(double, train, "branch3x3dbl_2", 384, 3)
        double_a = self.unit(double, train, "branch3x3dbl_3a", 384, (1, 3))
        double_b = self.unit(double, train, "branch3x3dbl_3b", 384, (3, 1))
        pooled = self.unit(_average(x), train, "branch_pool", 192, 1)
        return jnp.concatenate([narrow, single_a, single_b, double_a, double_b, pooled], -1)


def _max_pool(x: jax.Array) -> jax.Array:
    return max_pool(x, symmetric(0))


def _average(x: jax.Array) -> jax.Array:
    return average_pool(x, 3, 1, symmetric(1))


_A = (
    "branch1x1",
    "branch5x5_1",
    "branch5x5_2",
    "branch3x3dbl_1",
    "branch3x3dbl_2",
    "branch3x3dbl_3",
    "branch_pool",
)
_B = (
    "branch1x1",
    *(f"branch7x7_{i}" for i in range(1, 4)),
    *(f"branch7x7dbl_{i}" for i in range(1, 6)),
    "branch_pool",
)
_C = (
    "branch1x1",
    *(f"branch3x3_{i}" for i in ("1", "2a", "2b")),
    *(f"branch3x3dbl_{i}" for i in ("1", "2", "3a", "3b")),
    "branch_pool",
)
_UNITS = {
    **dict.fromkeys(("5b", "5c", "5d"), _A),
    "6a": ("branch3x3", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    **dict.fromkeys(("6b", "6c", "6d", "6e"), _B),
    "7a": ("branch3x3_1", "branch3x3_2", *(f"branch7x7x3_{i}" for i in range(1, 5))),
    **dict.fromkeys(("7b", "7c"), _C),
}


def _torch_names() -> TorchNames:
    def layers(units: dict[str, str]) -> dict[str, str]:
        convolutions = {f"{unit}_conv": f"{prefix}.conv" for unit, prefix in units.items()}
        return convolutions | {f"{unit}_norm": f"{prefix}.bn" for unit, prefix in units.items()}

    first = {"1a": "Conv2d_1a_3x3", "2a": "Conv2d_2a_3x3", "2b": "Conv2d_2b_3x3"}
    following = {"3b": "Conv2d_3b_1x1", "4a": "Conv2d_4a_3x3"}
    mixed = ({unit: f"Mixed_{name}.{unit}" for unit in units} for name, units in _UNITS.items())
    return TorchNames(
        {}, tuple(map(layers, (first, following, *mixed))), {"classifier": "fc"}, ignored=("AuxLogits.",)
    )


def _inception_v3(name: str, num_classes: int, width: float, numerics: Numerics) -> Network:
    return Network(
        architecture=name,
        width=width,
        num_classes=num_classes,
        stem=EmptyStem(),
        blocks=(
            FirstConvolutions(width, numerics),
            NextConvolutions(width, numerics),
            *(MixedA(width, numerics, pooled) for pooled in (32, 64, 64)),
            ReductionA(width, numerics),
            *(MixedB(width, numerics, bottleneck) for bottleneck in (128, 160, 160, 192)),
            ReductionB(width, numerics),
            MixedC(width, numerics),
            MixedC(width, numerics),
        ),
        head=PooledClassifier(num_classes),
        torch_names=_torch_names(),
    )


BUILDERS: dict[str, PlainBuilder] = {"inception_v3": _inception_v3}
