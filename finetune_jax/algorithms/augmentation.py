"""Augmentations of one image on the device, by name.

Each is ``augment(key, image, aspect) → image`` on float32 ``[H, W, C]`` of 0 to 255 and of fixed size; the train
step maps it over the batch with one key per example, so the result does not depend on how examples are spread
over devices. ``aspect`` is the width over the height of an image that was stretched to the square it is kept as;
None stands for images that keep their shape.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from finetune_jax.algorithms import augmentation_policies
from finetune_jax.algorithms.colour import adjust as adjust
from finetune_jax.algorithms.colour import jitter as jitter
from finetune_jax.algorithms.colour import shift_hue as shift_hue

Aspect = jax.Array | float | None
Augmentation = Callable[[jax.Array, jax.Array, Aspect], jax.Array]

_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10


def identity(key: jax.Array, image: jax.Array, aspect: Aspect = None) -> jax.Array:
    """The image as it is.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> key, image = jax.random.key(0), jnp.ones((8, 8, 3))
        >>> bool((augmentation.identity(key, image) == image).all())
        True
    """
    del key, aspect
    return image


def flip(key: jax.Array, image: jax.Array, aspect: Aspect = None) -> jax.Array:
    """Mirror left and right with probability ½.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> image = jnp.array([[[1.0], [2.0]]])
        >>> results = jax.vmap(augmentation.flip, (0, None))(jax.random.split(jax.random.key(0), 100), image)
        >>> 20 < int((results[:, 0, 0, 0] == 2).sum()) < 80
        True
    """
    del aspect
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def pad_crop(key: jax.Array, image: jax.Array, aspect: Aspect = None) -> jax.Array:
    """Shift by up to an eighth of the size in each direction; uncovered pixels repeat the edge.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> key, image = jax.random.key(0), jnp.ones((8, 8, 3))
        >>> augmentation.pad_crop(key, image).shape
        (8, 8, 3)
    """
    del aspect
    height, width, _ = image.shape
    reach_y, reach_x = max(1, height // 8), max(1, width // 8)
    padded = jnp.pad(image, ((reach_y, reach_y), (reach_x, reach_x), (0, 0)), mode="edge")
    key_y, key_x = jax.random.split(key)
    top = jax.random.randint(key_y, (), 0, 2 * reach_y + 1)
    left = jax.random.randint(key_x, (), 0, 2 * reach_x + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def pad_crop_flip(key: jax.Array, image: jax.Array, aspect: Aspect = None) -> jax.Array:
    """:func:`pad_crop`, then :func:`flip`.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> key, image = jax.random.key(0), jnp.ones((8, 8, 3))
        >>> augmentation.pad_crop_flip(key, image).shape
        (8, 8, 3)
    """
    key_crop, key_flip = jax.random.split(key)
    return flip(key_flip, pad_crop(key_crop, image, aspect))


class Box(NamedTuple):
    """A part of an image, in shares of its height and width; each ``[]``."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


def resample(image: jax.Array, box: Box, size: int) -> jax.Array:
    """A box of an image as ``[size, size, C]``: bilinear, antialiased where it shrinks.

    Two products with matrices of weights, ``[size, H]`` and ``[size, W]``. The values are those of Pillow's
    ``resize(box=…)``: at its edges the box takes from the pixels around it, if there are any.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> image = jnp.arange(16.0).reshape(4, 4, 1)
        >>> left_half = augmentation.Box(*map(jnp.array, (0.0, 0.0, 1.0, 0.5)))
        >>> augmentation.resample(image, left_half, size=2).shape
        (2, 2, 1)
    """
    shape = jnp.asarray(image.shape[:2], jnp.float32)
    scale = size / (shape * jnp.stack([box.height, box.width]))
    translation = -shape * jnp.stack([box.top, box.left]) * scale
    return jax.image.scale_and_translate(
        image, (size, size, image.shape[2]), (0, 1), scale, translation, "linear", antialias=True
    )


def crop(
    key: jax.Array, image: jax.Array, aspect: Aspect = None, *, size: int, shorter_side: int
) -> jax.Array:
    """A square of ``size`` pixels at a random place, ``[size, size, C]``; every place is equally likely.

    Args:
        key: of the place.
        image: to be cut, float32 ``[H, W, C]``.
        aspect: None cuts the image as it is. Otherwise the crop is one of the original image, resized to
            ``shorter_side`` in its proportions.
        size: side of the crop.
        shorter_side: see ``aspect``.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> key, image = jax.random.key(0), jnp.ones((8, 8, 3))
        >>> augmentation.crop(key, image, size=4, shorter_side=8).shape
        (4, 4, 3)
    """
    key_y, key_x = jax.random.split(key)
    if aspect is None:
        height, width, channels = image.shape
        top = jax.random.randint(key_y, (), 0, height - size + 1)
        left = jax.random.randint(key_x, (), 0, width - size + 1)
        return jax.lax.dynamic_slice(image, (top, left, 0), (size, size, channels))
    rows = jnp.floor(shorter_side * jnp.maximum(1, 1 / aspect))
    columns = jnp.floor(shorter_side * jnp.maximum(1, aspect))
    # At whole pixels, so that a shorter side that is kept at its size is not blurred.
    top = jax.random.randint(key_y, (), 0, rows.astype(int) - size + 1)
    left = jax.random.randint(key_x, (), 0, columns.astype(int) - size + 1)
    return resample(image, Box(top / rows, left / columns, size / rows, size / columns), size)


def random_crop(
    key: jax.Array, image: jax.Array, aspect: Aspect = None, *, size: int, shorter_side: int
) -> jax.Array:
    """:func:`crop`, then :func:`flip`.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> key, image = jax.random.key(0), jnp.ones((8, 8, 3))
        >>> augmentation.random_crop(key, image, size=4, shorter_side=8).shape
        (4, 4, 3)
    """
    key_crop, key_flip = jax.random.split(key)
    return flip(key_flip, crop(key_crop, image, aspect, size=size, shorter_side=shorter_side))


def random_box(key: jax.Array, aspect: Aspect = None) -> Box:
    """Where :func:`random_resized_crop` cuts an image (Szegedy et al. 2015, as torchvision reads it).

    The area is uniform in 8 to 100 % of the image, the logarithm of width over height uniform between those of
    3/4 and 4/3, the place uniform. What does not fit is drawn anew, ten times in all; then the box is the
    largest in the middle with an allowed shape.

    Args:
        key: of the draw.
        aspect: width over height of the image; None is a square.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> box = augmentation.random_box(jax.random.key(0))
        >>> bool(0.08 <= box.height * box.width <= 1), bool(box.top + box.height <= 1)
        (True, True)
    """
    aspect = 1.0 if aspect is None else aspect
    key_area, key_aspect, key_place = jax.random.split(key, 3)
    areas = jax.random.uniform(key_area, (_ATTEMPTS,), minval=_AREA[0], maxval=_AREA[1])
    logarithms = jax.random.uniform(
        key_aspect, (_ATTEMPTS,), minval=math.log(_ASPECT[0]), maxval=math.log(_ASPECT[1])
    )
    stretch = jnp.exp(logarithms) / aspect
    widths, heights = jnp.sqrt(areas * stretch), jnp.sqrt(areas / stretch)
    fits = (widths <= 1) & (heights <= 1)
    first = jnp.argmax(fits)
    height = jnp.where(fits.any(), heights[first], jnp.minimum(1, aspect / _ASPECT[0]))
    width = jnp.where(fits.any(), widths[first], jnp.minimum(1, _ASPECT[1] / aspect))
    place = jnp.where(fits.any(), jax.random.uniform(key_place, (2,)), 0.5)
    return Box(place[0] * (1 - height), place[1] * (1 - width), height, width)


def random_resized_crop(
    key: jax.Array,
    image: jax.Array,
    aspect: Aspect = None,
    *,
    size: int,
    color_jitter: float = 0.4,
    hue_jitter: float = 0.0,
) -> jax.Array:
    """:func:`random_box` resized to ``[size, size, C]``, :func:`flip`, :func:`jitter`.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> key, image = jax.random.key(0), jnp.ones((8, 8, 3))
        >>> augmentation.random_resized_crop(key, image, size=4).shape
        (4, 4, 3)
    """
    key_box, key_flip, key_jitter = jax.random.split(key, 3)
    image = flip(key_flip, resample(image, random_box(key_box, aspect), size))
    return jitter(key_jitter, image, strength=color_jitter, hue=hue_jitter)


def dihedral(key: jax.Array, image: jax.Array, aspect: Aspect = None) -> jax.Array:
    """One of the eight views of a square: turned by a multiple of 90 degrees, mirrored or not, all equally likely.

    Raises:
        ValueError: the image is no square.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> image = jnp.arange(4.0).reshape(2, 2, 1)
        >>> views = jax.vmap(augmentation.dihedral, (0, None))(jax.random.split(jax.random.key(0), 200), image)
        >>> len({tuple(view.flatten().tolist()) for view in views})
        8
    """
    del aspect
    if image.shape[0] != image.shape[1]:
        raise ValueError(f"only squares can be turned by 90 degrees, got {image.shape[0]} × {image.shape[1]}")
    key_transposed, key_rows, key_columns = jax.random.split(key, 3)
    image = jnp.where(jax.random.bernoulli(key_transposed), image.swapaxes(0, 1), image)
    image = jnp.where(jax.random.bernoulli(key_rows), image[::-1], image)
    return jnp.where(jax.random.bernoulli(key_columns), image[:, ::-1], image)


def then(first: Augmentation, second: Augmentation) -> Augmentation:
    """One augmentation after the other, each with a random stream of its own.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> both = augmentation.then(augmentation.flip, augmentation.dihedral)
        >>> both(jax.random.key(0), jnp.ones((4, 4, 3))).shape
        (4, 4, 3)
    """

    def both(key: jax.Array, image: jax.Array, aspect: Aspect = None) -> jax.Array:
        key_first, key_second = jax.random.split(key)
        return second(key_second, first(key_first, image, aspect), None)

    return both


BY_NAME: dict[str, Augmentation] = {
    "none": identity,
    "flip": flip,
    "pad_crop": pad_crop,
    "pad_crop_flip": pad_crop_flip,
}
"""Those that keep the size of the image."""


_POLICIES = {
    "trivial_augment": augmentation_policies.trivial_augment,
    "rand_augment": augmentation_policies.rand_augment,
    "augmix": augmentation_policies.augmix,
}


def create(
    name: str, size: int, *, shorter_side: int = 0, color_jitter: float = 0.4, hue_jitter: float = 0.0
) -> Augmentation:
    """The augmentation called ``name``, giving images of ``size`` pixels; the others as of its function.

    ``trivial_augment``, ``rand_augment`` and ``augmix`` follow a random resized crop and a mirror, without its changes
    of colour.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> augment = augmentation.create("random_resized_crop", size=4)
        >>> augment(jax.random.key(0), jnp.ones((8, 8, 3))).shape
        (4, 4, 3)
    """
    if name == "crop":
        return functools.partial(crop, size=size, shorter_side=shorter_side)
    if name == "random_crop":
        return functools.partial(random_crop, size=size, shorter_side=shorter_side)
    if name == "random_resized_crop":
        return functools.partial(
            random_resized_crop, size=size, color_jitter=color_jitter, hue_jitter=hue_jitter
        )
    if name in _POLICIES:
        policy = _POLICIES[name]
        cut = functools.partial(random_resized_crop, size=size, color_jitter=0.0)
        return then(cut, lambda key, image, aspect: policy(key, image))
    return BY_NAME[name]
