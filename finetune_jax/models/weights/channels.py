"""Weights trained on images of three channels, for images of others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.models import registry
from finetune_jax.models.network import Network, Variables


def kernel(values: np.ndarray, channels: int) -> np.ndarray:
    """The kernel of a first layer for another number of channels: timm's ``adapt_input_conv``.

    For one channel the kernels of the three are summed, which is what an image of three equal channels gives. For more
    they are repeated in turn and scaled by ``3 / channels``, so that outputs keep their size.

    Args:
        values: ``[h, w, 3, D]``.
        channels: wanted.

    Returns:
        ``[h, w, channels, D]``.
    """
    if channels == 1:
        return values.sum(axis=2, keepdims=True)
    repeated = np.concatenate([values] * -(-channels // 3), axis=2)[:, :, :channels]
    return repeated * np.asarray(3 / channels, values.dtype)


def numbers(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Mean or deviation of three channels for another number: their mean for one, else in turn."""
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[channel % len(values)] for channel in range(channels))


def adapted(network: Network, variables: Variables, channels: int) -> tuple[Network, Variables]:
    """A network of three channels and its weights for images of others.

    Args:
        network: of three channels.
        variables: of it; they are not changed.
        channels: wanted.
    """
    other = registry.with_settings(network, channels=channels)
    # What depends on the channels are the arrays whose shapes differ: the first kernel, in some networks two.
    shapes = other.shapes()["params"]["stem"]

    def of_leaf(value: jax.Array, shape: jax.ShapeDtypeStruct) -> jax.Array:
        if value.shape == shape.shape:
            return value
        return jnp.asarray(kernel(np.asarray(value), channels))

    stem = jax.tree.map(of_leaf, variables["params"]["stem"], shapes)
    other = dataclasses.replace(other, blocks=other.blocks[: len(network.blocks)])
    return other, {**variables, "params": {**variables["params"], "stem": stem}}
