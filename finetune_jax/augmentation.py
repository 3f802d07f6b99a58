"""Augmentations of one image on the device, by name.

Each is ``augment(key, image) → image`` on float32 ``[H, W, C]`` of fixed size; the train step maps it over
the batch with one key per example, so the result does not depend on how examples are spread over devices.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]


def identity(key: jax.Array, image: jax.Array) -> jax.Array:
    """The image as it is."""
    del key
    return image


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirror left and right with probability ½."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def crop(key: jax.Array, image: jax.Array, *, size: int) -> jax.Array:
    """A square of ``size`` pixels at a random place, ``[size, size, C]``; every place is equally likely."""
    height, width, channels = image.shape
    key_y, key_x = jax.random.split(key)
    top = jax.random.randint(key_y, (), 0, height - size + 1)
    left = jax.random.randint(key_x, (), 0, width - size + 1)
    return jax.lax.dynamic_slice(image, (top, left, 0), (size, size, channels))


def pad_crop(key: jax.Array, image: jax.Array) -> jax.Array:
    """Shift by up to an eighth of the size in each direction; uncovered pixels repeat the edge."""
    height, width, _ = image.shape
    reach_y, reach_x = max(1, height // 8), max(1, width // 8)
    padded = jnp.pad(image, ((reach_y, reach_y), (reach_x, reach_x), (0, 0)), mode="edge")
    key_y, key_x = jax.random.split(key)
    top = jax.random.randint(key_y, (), 0, 2 * reach_y + 1)
    left = jax.random.randint(key_x, (), 0, 2 * reach_x + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def pad_crop_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """:func:`pad_crop`, then :func:`flip`."""
    key_crop, key_flip = jax.random.split(key)
    return flip(key_flip, pad_crop(key_crop, image))


BY_NAME: dict[str, Augmentation] = {
    "none": identity,
    "flip": flip,
    "pad_crop": pad_crop,
    "pad_crop_flip": pad_crop_flip,
}
"""Those that keep the size of the image."""


def create(name: str, size: int) -> Augmentation:
    """The augmentation called ``name``, giving images of ``size`` pixels."""
    if name == "crop":
        return functools.partial(crop, size=size)
    return BY_NAME[name]
