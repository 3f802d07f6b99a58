"""Random erasing: a box of a normalised image replaced by noise.

>>> import jax
>>> import jax.numpy as jnp
>>> image = jnp.zeros((8, 8, 3))
>>> bool((erase(jax.random.key(0), image, probability=0.0) == image).all())
True
"""

import math

import jax
import jax.numpy as jnp

_AREA = (0.02, 1 / 3)
_ASPECT = (0.3, 1 / 0.3)
_ATTEMPTS = 10


def erase(key: jax.Array, image: jax.Array, *, probability: float) -> jax.Array:
    """With this probability, a box of standard normal noise, pixel by pixel.

    Zhong et al., "Random Erasing Data Augmentation" (AAAI 2020), with timm's numbers and filling: the box covers 2 to
    33 % of the area, is 0.3 to 3.3 times as high as wide (uniform in the logarithm), and lies in the image. What does
    not fit is drawn anew, ten times in all; then nothing is erased.

    Args:
        key: of the draw.
        image: float32 ``[H, W, C]``, normalised: mean about 0 and deviation about 1.
        probability: in [0, 1].
    """
    key_erased, key_box, key_noise = jax.random.split(key, 3)
    inside = box(key_box, image.shape[0], image.shape[1]) & jax.random.bernoulli(key_erased, probability)
    return jnp.where(inside[..., None], jax.random.normal(key_noise, image.shape, image.dtype), image)


def box(key: jax.Array, height: int, width: int) -> jax.Array:
    """Where :func:`erase` erases, bool ``[H, W]``.

    Args:
        key: of the draw.
        height: of the image in pixels.
        width: of the image in pixels.
    """
    key_area, key_aspect, key_y, key_x = jax.random.split(key, 4)
    areas = jax.random.uniform(key_area, (_ATTEMPTS,), minval=_AREA[0], maxval=_AREA[1]) * height * width
    logarithms = jax.random.uniform(
        key_aspect, (_ATTEMPTS,), minval=math.log(_ASPECT[0]), maxval=math.log(_ASPECT[1])
    )
    heights = jnp.round(jnp.sqrt(areas * jnp.exp(logarithms))).astype(int)
    widths = jnp.round(jnp.sqrt(areas / jnp.exp(logarithms))).astype(int)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    tall, wide = heights[first], widths[first]
    top = jax.random.randint(key_y, (), 0, jnp.maximum(height - tall, 0) + 1)
    left = jax.random.randint(key_x, (), 0, jnp.maximum(width - wide, 0) + 1)
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None]
    inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    return inside & fits.any()
