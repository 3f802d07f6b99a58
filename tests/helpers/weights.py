"""Weights of a small network, written as a file."""

from pathlib import Path

import jax
import numpy as np

from finetune_jax import models


def write_weights(path: Path) -> None:
    """Some weights: reading them is faster than compiling their initialisation."""
    network = models.create("resnet26_policy", num_classes=2, width=0.125)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: (float(leaf.ndim == 1) + 0.1 * rng.normal(size=leaf.shape)).astype(leaf.dtype),
        network.shapes(),
    )
    np.savez(path, **models.to_torch_state(network, variables))
