"""TrivialAugment, RandAugment and AugMix: which operations change an image, and how much.

Each is an augmentation ``(key, image) → image`` as in :mod:`finetune_jax.algorithms.augmentation`; values between whole
numbers, which resizing leaves, are rounded first. The lists of operations and their magnitudes are those of
torchvision, whose names are in brackets.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> trivial_augment(jax.random.key(0), jnp.full((8, 8, 3), 100.0)).shape
    (8, 8, 3)
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms.image_operations import OPERATIONS, operate


class Space(NamedTuple):
    """What a policy draws from.

    Attributes:
        operations: int ``[N]``, places in ``image_operations.OPERATIONS``.
        magnitudes: float32 ``[N, bins]``.
        signed: bool ``[N]``, whether the sign of a magnitude is drawn.
    """

    operations: np.ndarray
    magnitudes: np.ndarray
    signed: np.ndarray


_SIGNED = OPERATIONS[1:10]


def _space(largest: Mapping[str, float], bits: tuple[int, int], bins: int) -> Space:
    """Magnitudes from 0 to the largest one; fewer bits and a lower threshold with every bin."""
    rows = []
    for name in OPERATIONS:
        if name == "posterize":
            most, fewer = bits
            row = most - np.round(np.arange(bins) * fewer / (bins - 1))
        elif name == "solarize":
            row = np.linspace(255, 0, bins)
        else:
            row = np.linspace(0, largest.get(name, 0), bins)
        rows.append(row.astype(np.float32))
    signed = np.array([name in _SIGNED for name in OPERATIONS])
    return Space(np.arange(len(OPERATIONS)), np.stack(rows), signed)


_BLENDS = ("brightness", "color", "contrast", "sharpness")


def trivial_augment_space() -> Space:
    """The wide one (``TrivialAugmentWide``)."""
    largest = {**dict.fromkeys(("shear_x", "shear_y", *_BLENDS), 0.99), "rotate": 135}
    return _space({**largest, "translate_x": 32, "translate_y": 32}, (8, 6), 31)


def rand_augment_space(height: int, width: int) -> Space:
    """That of images of this size (``RandAugment``)."""
    largest = {**dict.fromkeys(("shear_x", "shear_y"), 0.3), **dict.fromkeys(_BLENDS, 0.9), "rotate": 30}
    shares = {"translate_x": 150 / 331 * width, "translate_y": 150 / 331 * height}
    return _space({**largest, **shares}, (8, 4), 31)


def augmix_space(height: int, width: int) -> Space:
    """That of images of this size (``AugMix``): all operations but the identity."""
    largest = {**dict.fromkeys(("shear_x", "shear_y"), 0.3), **dict.fromkeys(_BLENDS, 0.9), "rotate": 30}
    shares = {"translate_x": width / 3, "translate_y": height / 3}
    space = _space({**largest, **shares}, (4, 4), 10)
    return Space(space.operations[1:], space.magnitudes[1:], space.signed[1:])


def trivial_augment(key: jax.Array, image: jax.Array) -> jax.Array:
    """One operation with one magnitude, all equally likely.

    Müller and Hutter, "TrivialAugment" (ICCV 2021), the wide space.

    Args:
        key: of the draw.
        image: float32 ``[H, W, 3]`` of 0 to 255.
    """
    space = trivial_augment_space()
    return _drawn(key, _whole(image), space, jnp.arange(space.magnitudes.shape[1]))


def rand_augment(key: jax.Array, image: jax.Array, *, operations: int = 2, magnitude: int = 9) -> jax.Array:
    """So many operations one after the other, drawn with repetition, all at the same magnitude.

    Cubuk et al., "RandAugment" (NeurIPS 2020); magnitudes in 31 bins from 0 to 30.

    Args:
        key: of the draw.
        image: float32 ``[H, W, 3]`` of 0 to 255.
        operations: how many, the paper's N.
        magnitude: bin, the paper's M.
    """
    image = _whole(image)
    space = rand_augment_space(*image.shape[:2])
    for operation_key in jax.random.split(key, operations):
        image = _drawn(operation_key, image, space, jnp.array([magnitude]))
    return image


def augmix(key: jax.Array, image: jax.Array, *, severity: int = 3, chains: int = 3) -> jax.Array:
    """A mixture of the image and of chains of one to three operations on it.

    Hendrycks et al., "AugMix" (ICLR 2020), Algorithm 1 without its consistency loss; weights of the chains are of a
    flat Dirichlet distribution, the weight of the image itself is uniform.

    Args:
        key: of the draw.
        image: float32 ``[H, W, 3]`` of 0 to 255.
        severity: magnitudes are drawn from so many of the ten lowest bins.
        chains: the paper's k.
    """
    image = _whole(image)
    space = augmix_space(*image.shape[:2])
    key_weights, key_share, key_depths, key_chains = jax.random.split(key, 4)
    weights = jax.random.dirichlet(key_weights, jnp.ones(chains))
    share = jax.random.uniform(key_share)
    depths = jax.random.randint(key_depths, (chains,), 1, 4)
    mixture = share * image
    for chain, chain_key in enumerate(jax.random.split(key_chains, chains)):
        changed = image
        for step, step_key in enumerate(jax.random.split(chain_key, 3)):
            changed = _drawn(step_key, changed, space, jnp.arange(severity), applied=step < depths[chain])
        mixture += (1 - share) * weights[chain] * changed
    return jnp.floor(mixture)


def _whole(image: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(image), 0, 255)


def _drawn(
    key: jax.Array, image: jax.Array, space: Space, bins: jax.Array, applied: jax.Array | bool = True
) -> jax.Array:
    """One operation of a space at one of the bins, all equally likely; the image itself where it is not applied."""
    key_operation, key_bin, key_sign = jax.random.split(key, 3)
    row = jax.random.randint(key_operation, (), 0, len(space.operations))
    magnitude = jnp.asarray(space.magnitudes)[row, jax.random.choice(key_bin, bins)]
    negative = jnp.asarray(space.signed)[row] & jax.random.bernoulli(key_sign)
    # The first operation changes nothing.
    operation = jnp.where(applied, jnp.asarray(space.operations)[row], 0)
    return operate(image, operation, jnp.where(negative, -magnitude, magnitude))
