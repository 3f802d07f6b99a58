"""Random changes of colours, as torchvision's ``ColorJitter`` makes them; ``augmentation`` hands these names on.

An image is ``[H, W, 3]`` with values of 0 to 255.
"""

import jax
import jax.numpy as jnp

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow


def jitter(key: jax.Array, image: jax.Array, *, strength: float, hue: float = 0.0) -> jax.Array:
    """Change brightness, contrast and saturation in random order, then the hue.

    Args:
        key: of the draw.
        image: float32 ``[H, W, 3]`` of 0 to 255.
        strength: the three factors are uniform in ``[1 - strength, 1 + strength]``.
        hue: it moves by a uniform share in ``[-hue, hue]`` of the colour circle.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> key, image = jax.random.key(0), jnp.ones((8, 8, 3))
        >>> changed = augmentation.jitter(key, 100 * image, strength=0.4)
        >>> changed.shape, bool((changed != 100 * image).any())
        ((8, 8, 3), True)
    """
    key_order, key_factors, key_hue = jax.random.split(key, 3)
    if strength:
        factors = jax.random.uniform(key_factors, (3,), minval=1 - strength, maxval=1 + strength)
        image = adjust(image, jax.random.permutation(key_order, 3), factors)
    if hue:
        image = shift_hue(image, jax.random.uniform(key_hue, minval=-hue, maxval=hue))
    return image


def adjust(image: jax.Array, order: jax.Array, factors: jax.Array) -> jax.Array:
    """Brightness, contrast and saturation, one after the other, as Pillow's ``ImageEnhance`` defines them.

    All three move a pixel away from or towards something: black, the mean grey of the image, its own grey.

    Args:
        image: float32 ``[H, W, 3]`` of 0 to 255; so is the result of every change.
        order: int ``[T]``, what is changed first, second and so on: 0 brightness, 1 contrast, 2 saturation.
        factors: ``[T]`` of these changes; 1 changes nothing.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> key, image = jax.random.key(0), jnp.ones((8, 8, 3))
        >>> brightness = jnp.array([0])
        >>> augmentation.adjust(100 * image, order=brightness, factors=jnp.array([0.5]))[0, 0].tolist()
        [50.0, 50.0, 50.0]
    """

    def change(image: jax.Array, drawn: tuple[jax.Array, jax.Array]) -> jax.Array:
        what, factor = drawn
        grey = (image * jnp.asarray(_LUMINANCE, image.dtype)).sum(-1, keepdims=True)
        reference = jnp.select([what == 0, what == 1], [jnp.zeros_like(grey), grey.mean()], grey)
        return jnp.clip(reference + factor * (image - reference), 0, 255)

    for drawn in zip(order, factors, strict=True):
        image = change(image, drawn)
    return image


def shift_hue(image: jax.Array, shift: jax.Array | float) -> jax.Array:
    """Move the hue of HSV colours along the colour circle, brightness and saturation staying as they are.

    Args:
        image: float32 ``[H, W, 3]``.
        shift: ``[]``, as a share of the circle.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import augmentation
        >>> red = jnp.array([[[255.0, 0.0, 0.0]]])
        >>> augmentation.shift_hue(red, 1 / 3).round()[0, 0].tolist()
        [0.0, 255.0, 0.0]
    """
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value = image.max(-1)
    chroma = value - image.min(-1)
    divisor = jnp.where(chroma > 0, chroma, 1)
    hue = jnp.select(
        [value == red, value == green],
        [(green - blue) / divisor, (blue - red) / divisor + 2],
        (red - green) / divisor + 4,
    )
    # Distance of each channel's own hue, in sixths of the circle: red 5, green 3, blue 1 (Smith 1978, turned).
    places = (jnp.asarray([5.0, 3.0, 1.0], image.dtype) + (hue + 6 * shift)[..., None]) % 6
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(places, 4 - places), 0, 1)
