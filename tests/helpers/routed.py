"""A small pretrained network, and images for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from weights import random_variables

from finetune_jax import models
from finetune_jax.models.normalization import normalizer

BATCH = 16
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (BATCH, 8, 8, 3), dtype=np.uint8)
NORMALIZE = normalizer((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
INPUTS = NORMALIZE(jnp.asarray(IMAGES))


@functools.cache
def pretrained(norm_axis=None):
    """A network of three blocks, with running statistics of its own."""
    network = models.create("resnet26_policy", num_classes=4, width=0.125)
    variables = random_variables(network)
    _, batch_stats = jax.jit(functools.partial(network.apply, train=True))(variables, INPUTS)
    if norm_axis is not None:
        network = models.create("resnet26_policy", num_classes=4, width=0.125, norm_axis=norm_axis)
    return network, {**variables, "batch_stats": batch_stats}


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
