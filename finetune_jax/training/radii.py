"""Radii around the weights of a start, learned from images: see ``algorithms.learned_radii``."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import learned_radii, losses, projection
from finetune_jax.algorithms.learned_radii import RadiiState
from finetune_jax.data.batch import Batch
from finetune_jax.data.feeds import Feed
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.models.network import Network, Variables

Tree = Any

HEAD = "head"
"""The part that has no pretrained weights to stay near, and is left as it is."""


class Learning(NamedTuple):
    """What learns radii, on the devices.

    Attributes:
        end: ``{part: tree}`` of the weights W̃ that are projected; the parts of ``start``.
        start: W₀.
        fixed: ``{part: tree}`` of the parts that are not projected.
        statistics: ``{part: tree}`` of all parts.
        learned: radii and moments.
        rate: float32 ``[]`` of Adam, a share of the largest norm of an array.
    """

    end: Tree
    start: Tree
    fixed: Tree
    statistics: Tree
    learned: RadiiState
    rate: Any


def compile_learning(
    network: Network,
    normalize: Callable[[jax.Array], jax.Array],
    feed: Feed,
    *,
    in_training_mode: bool,
) -> Callable[[Learning, np.ndarray], Learning]:
    """``(learning, order [steps, B]) → learning`` after a step for every batch; what is given is used up.

    Args:
        network: whose batch norms reach over the axis of the replicas.
        normalize: uint8 images to the network's input.
        feed: of the images that radii are learned from, with the numbers of their classes.
        in_training_mode: whether batch norms take the statistics of the batch over all devices.
    """

    def step(state: Learning, batch: Batch) -> Learning:
        images = normalize(batch.images.astype(jnp.float32))

        def loss(radii: Tree) -> jax.Array:
            params = {**projection.project(state.end, state.start, radii), **state.fixed}
            variables = {"params": params, "batch_stats": state.statistics}
            if in_training_mode:
                rngs = {"dropout": jax.random.key(0)}
                outputs, _ = network.apply(variables, images, train=network.part_names, rngs=rngs)
            else:
                outputs = network.apply(variables, images)
            return losses.cross_entropy(outputs, batch.labels).mean()

        gradients = jax.lax.pmean(jax.grad(loss)(state.learned.radii), AXIS)
        learned = learned_radii.update(gradients, state.learned, state.end, state.start, state.rate)
        return state._replace(learned=learned)

    over_batches = feed.compile_training(step)

    def learn(state: Learning, order: np.ndarray) -> Learning:
        for after, _ in over_batches(state, order):
            state = after
        return state

    return learn


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
    """``{part: {…: radius}}`` of all parts but the head, as host arrays, learned once after a training.

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
    reference, movable = without_head(start["params"]), without_head(end["params"])
    begun = replicas.replicate(
        Learning(
            end=movable,
            start=reference,
            fixed={HEAD: end["params"][HEAD]},
            statistics=end["batch_stats"],
            learned=learned_radii.init(movable, reference),
            rate=np.float32(rate),
        )
    )
    in_training_mode = bool(jax.tree.leaves(end["batch_stats"]))
    compiled = compile_learning(network, normalize, feed, in_training_mode=in_training_mode)
    return jax.device_get(compiled(begun, order).learned.radii)


def without_head(params: Tree) -> Tree:
    """``{part: tree}`` of the parts that have pretrained weights to stay near."""
    return {name: tree for name, tree in params.items() if name != HEAD}


def batches(count: int, steps: int, size: int, *, multiple: int, seed: int | Sequence[int]) -> np.ndarray:
    """Rows of images in a random order, again and again, int32 ``[steps, B]``.

    Args:
        count: of the images.
        steps: how many rows.
        size: most images of a row, a power of two.
        multiple: number of devices, which must divide B. It does not change B as long as it is a power of two up to B.
        seed: of the order, one or two numbers.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    size = min(size, 2 ** (count.bit_length() - 1))
    size = max(size // multiple, 1) * multiple
    rounds = -(-steps * size // count)
    order = np.concatenate([rng.permutation(count) for _ in range(rounds)])
    return order[: steps * size].reshape(steps, size).astype(np.int32)
