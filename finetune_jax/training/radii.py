"""Radii around the weights of a start, learned from images: see ``algorithms.learned_radii``."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import learned_radii, losses, projection
from finetune_jax.data.batch import Batch
from finetune_jax.data.feeds import Feed
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.models.network import Network, Variables

Tree = Any

HEAD = "head"
"""The part that has no pretrained weights to stay near, and is left as it is."""


def learn(
    start: Variables,
    end: Variables,
    *,
    network: Network,
    normalize: Callable[[jax.Array], jax.Array],
    feed: Feed,
    order: np.ndarray,
    replicas: Replicas,
    rate: float,
) -> Tree:
    """``{part: {…: radius}}`` of all parts but the head, as host arrays.

    Batch norms take the statistics of the batch over all devices, for those of the end are not those of weights
    between; a network without them runs as in evaluation.

    Args:
        start: variables W₀.
        end: variables W̃.
        network: of both, whose batch norms reach over the axis of the replicas.
        normalize: uint8 images to the network's input.
        feed: of the images that radii are learned from, with their labels.
        order: int32 ``[steps, B]``, the batches.
        replicas: where.
        rate: of Adam, a share of the largest norm of an array.
    """
    reference = {name: tree for name, tree in start["params"].items() if name != HEAD}
    movable = {name: tree for name, tree in end["params"].items() if name != HEAD}
    fixed = {name: tree for name, tree in end["params"].items() if name == HEAD}
    in_training_mode = network.part_names if jax.tree.leaves(end["batch_stats"]) else ()

    def step(state: dict[str, Any], batch: Batch) -> dict[str, Any]:
        images = normalize(batch.images.astype(jnp.float32))

        def loss(radii: Tree) -> jax.Array:
            params = {**projection.project(state["end"], state["start"], radii), **state["fixed"]}
            variables = {"params": params, "batch_stats": state["statistics"]}
            if in_training_mode:
                rngs = {"dropout": jax.random.key(0)}
                outputs, _ = network.apply(variables, images, train=in_training_mode, rngs=rngs)
            else:
                outputs = network.apply(variables, images)
            return losses.cross_entropy(outputs, batch.labels).mean()

        gradients = jax.lax.pmean(jax.grad(loss)(state["learned"].radii), AXIS)
        learned = learned_radii.update(
            gradients, state["learned"], state["end"], state["start"], state["rate"]
        )
        return {**state, "learned": learned}

    state = replicas.replicate(
        {
            "end": movable,
            "start": reference,
            "fixed": fixed,
            "statistics": end["batch_stats"],
            "learned": learned_radii.init(movable, reference),
            "rate": np.float32(rate),
        }
    )
    for after, _ in feed.compile_training(step)(state, order):
        state = after
    return jax.device_get(state["learned"].radii)


def batches(count: int, steps: int, size: int, *, multiple: int, seed: int) -> np.ndarray:
    """Rows of images in a random order, again and again, int32 ``[steps, B]``.

    Args:
        count: of the images.
        steps: how many rows.
        size: most images of a row, a power of two.
        multiple: number of devices, which must divide B. It does not change B as long as it is a power of two up to B.
        seed: of the order.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    size = min(size, 2 ** (count.bit_length() - 1))
    size = max(size // multiple, 1) * multiple
    rounds = -(-steps * size // count)
    order = np.concatenate([rng.permutation(count) for _ in range(rounds)])
    return order[: steps * size].reshape(steps, size).astype(np.int32)
