"""Where the patches of an image are: tables of learned positions, and rotations of queries and keys."""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.models.layers.batch_norm import at_least_float32


def resampled(table: np.ndarray, prefix: int, side: int) -> np.ndarray:
    """A table of learned positions for another number of patches.

    Bicubic (Keys, a = −0.5) with antialiasing, as timm resamples tables and Pillow images.

    Args:
        table: ``[prefix + old², C]``, patches row by row.
        prefix: entries in front that belong to no patch; they stay.
        side: new number of patches per row and column.

    Returns:
        ``[prefix + side², C]`` float32, the table itself where the number is the same.

    Raises:
        ValueError: the patches of the table are not a square.
    """
    count, channels = len(table) - prefix, table.shape[1]
    old = math.isqrt(max(count, 0))
    if old * old != count or count == 0:
        raise ValueError(f"{count} positions are not those of a square of patches")
    if old == side:
        return table
    weights = _bicubic_weights(old, side)
    grid = table[prefix:].astype(np.float64).reshape(old, old, channels)
    grid = np.einsum("yi,xj,ijc->yxc", weights, weights, grid, optimize=True).reshape(side * side, channels)
    return np.concatenate([table[:prefix], grid]).astype(np.float32)


def _bicubic_weights(old: int, new: int) -> np.ndarray:
    """Matrix ``[new, old]`` that resamples a line; rows sum to 1."""
    stretch = max(1.0, old / new)  # a smaller line is a mean of more pixels
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    distance = np.abs(centres[:, None] - np.arange(old)) / stretch
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    return weights / weights.sum(1, keepdims=True)


@dataclass(frozen=True)
class Rotation:
    """Rotary positions of a square of patches (DINOv3's rule; Su et al., "RoFormer", 2021).

    Attributes:
        side: patches per row and column.
        prefix: tokens in front that are not rotated.
        base: the slowest wave is nearly so many times as long as the fastest, which spans half the image.
    """

    side: int
    prefix: int
    base: float = 100.0


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Turn pairs of channels of queries or keys ``[B, S, H, d]`` by angles that depend on the patch's place."""
    sine, cosine = (jnp.asarray(part) for part in _angles(rotation.side, x.shape[-1], rotation.base))
    patches = x[:, rotation.prefix :].astype(at_least_float32(x))
    first, second = jnp.split(patches, 2, axis=-1)
    turned = patches * cosine + jnp.concatenate([-second, first], -1) * sine
    return jnp.concatenate([x[:, : rotation.prefix], turned.astype(x.dtype)], axis=1)


@functools.lru_cache(maxsize=64)
def _angles(side: int, channels: int, base: float) -> tuple[np.ndarray, np.ndarray]:
    """Sines and cosines ``[side², 1, channels]``: a quarter by the row, a quarter by the column, and both again."""
    # In float32 as the origin computes them: its rounding is part of what the weights were trained with.
    places = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side) * np.float32(
        2
    ) - np.float32(1)
    quarter = channels // 4
    exponents = np.float32(2) * np.arange(quarter, dtype=np.float32) / np.float32(channels // 2)
    periods = np.float32(base) ** exponents
    waves = np.float32(2 * math.pi) * places[:, None] / periods
    rows = np.broadcast_to(waves[:, None], (side, side, quarter))
    columns = np.broadcast_to(waves[None], (side, side, quarter))
    angles = np.concatenate([rows, columns], -1).reshape(side * side, 1, 2 * quarter)
    angles = np.tile(angles, (1, 1, 2)).astype(np.float32)
    return np.sin(angles), np.cos(angles)
