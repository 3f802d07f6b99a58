"""Pixels to the network's input."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def normalizer(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[jax.Array], jax.Array]:
    """Images of 0 to 255 to zero mean and unit variance per channel, float32."""
    scale = 1 / (255 * jnp.asarray(std, jnp.float32))
    offset = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return lambda images: images.astype(jnp.float32) * scale - offset
