"""Augmentations of one image on the device, by name.

Each is ``augment(key, image) → image`` on float32 ``[H, W, C]`` of fixed size; the train step maps it over
the batch with one key per example, so the result does not depend on how examples are spread over devices.
"""

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
