"""What a network costs: parameters, and floating point operations of an image."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from finetune_jax.models.layers import convolution
from finetune_jax.models.network import Network


class Cost(NamedTuple):
    """Of one network.

    Attributes:
        parameters: number of values that training may change; running statistics do not count.
        flops: floating point operations to classify one image, 2 for a multiplication with an addition.
    """

    parameters: int
    flops: float


def of_network(network: Network, image_size: int) -> Cost:
    """Counted by XLA on the program before its optimisation; nothing is run.

    Examples:
        >>> from finetune_jax import costs, models
        >>> cost = costs.of_network(models.create("resnet26_policy", num_classes=5, width=0.125), image_size=8)
        >>> cost.parameters, cost.flops > 0
        (18713, True)
    """
    shapes = network.shapes()
    images = jax.ShapeDtypeStruct((1, image_size, image_size, network.channels), jnp.float32)
    with convolution.countable():
        # A function of its own, for JAX would remember the trace of another.
        analysis = jax.jit(lambda *arguments: network.apply(*arguments)).lower(shapes, images).cost_analysis()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    return Cost(parameters, float((analysis or {})["flops"]))
