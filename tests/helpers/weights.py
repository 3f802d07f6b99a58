"""Weights of networks that do not need to be trained ones."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from finetune_jax import models


def random_variables(network: Any, seed: int = 0) -> Any:
    """Variables with the shapes of a network and values that keep its activations near one.

    Drawn by NumPy: initialising a network compiles a program for each kind of its blocks, most of what many tests cost.
    """
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.normal(size=leaf.shape)
        if leaf.ndim > 1:
            values = noise / np.sqrt(np.prod(leaf.shape[:-1]))
        elif path[-1].key in ("scale", "var"):
            values = 1 + 0.1 * np.abs(noise)
        else:
            values = 0.1 * noise
        return jax.device_put(values.astype(leaf.dtype))  # compiles nothing, unlike jnp.asarray

    return jax.tree_util.tree_map_with_path(draw, network.shapes())


def write_weights(path: Path) -> None:
    """Some weights: reading them is faster than compiling their initialisation."""
    network = models.create("resnet26_policy", num_classes=2, width=0.125)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: (float(leaf.ndim == 1) + 0.1 * rng.normal(size=leaf.shape)).astype(leaf.dtype),
        network.shapes(),
    )
    np.savez(path, **models.to_torch_state(network, variables))
