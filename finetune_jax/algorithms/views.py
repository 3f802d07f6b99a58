"""Views of images for evaluation and prediction: their outputs are averaged.

>>> import jax.numpy as jnp
>>> images = jnp.arange(12.0).reshape(1, 2, 2, 3)
>>> mirrored(images).shape
(2, 1, 2, 2, 3)
>>> outputs = mean_output(lambda view: view.mean((1, 2)), five_crops(images, 1))
>>> outputs.shape
(1, 3)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def mirrored(images: jax.Array) -> jax.Array:
    """The images and their mirror images, ``[2, B, H, W, C]``, of ``images [B, H, W, C]``."""
    return jnp.stack([images, images[:, :, ::-1]])


def five_crops(images: jax.Array, size: int) -> jax.Array:
    """Upper left, upper right, lower left, lower right and central square, ``[5, B, size, size, C]``.

    As torchvision's ``five_crop``. Krizhevsky et al. (NeurIPS 2012) averaged over these and their mirror images.

    Args:
        images: ``[B, H, W, C]``.
        size: side in pixels.

    Raises:
        ValueError: the images are smaller.
    """
    height, width = images.shape[1:3]
    if min(height, width) < size:
        raise ValueError(f"crops of {size} pixels do not fit into images of {height} × {width}")
    bottom, right = height - size, width - size
    center = round(bottom / 2), round(right / 2)
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), center]
    return jnp.stack([images[:, top : top + size, left : left + size] for top, left in corners])


def mean_output(function: Callable[[jax.Array], jax.Array], views: jax.Array) -> jax.Array:
    """Mean of ``function(images [B, …]) → [B, …]`` over ``views [V, B, …]``, one view at a time.

    Of logits it is a geometric mean of probabilities, but for a factor.
    """
    return sum((function(view) for view in views[1:]), function(views[0])) / len(views)
