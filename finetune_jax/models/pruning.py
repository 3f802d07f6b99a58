"""Pruning of the top blocks, and the search for how many of them to prune.

Algorithm 1 of Ro and Choi, "AutoLR" (AAAI 2021): the highest blocks of a pretrained network are the ones most
specific to what it was trained on, and a new task may do better without them.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from finetune_jax.algorithms import weight_variation
from finetune_jax.models.network import Network, Variables


class Search(NamedTuple):
    """Outcome of `search`.

    Attributes:
        best_depth: number of top blocks to remove.
        scores: of depth 0, 1, 2 …, as far as the search went; its last one may be the drop that ended it.
    """

    best_depth: int
    scores: tuple[float, ...]


def truncate(network: Network, depth: int) -> Network:
    """The network without its top ``depth`` blocks.

    The head stays, whatever the last block now hands to it: `fit_head` gives the variables one that fits.

    Raises:
        ValueError: ``depth`` is negative, or no block would be left.

    Examples:
        >>> from finetune_jax import models, pruning
        >>> network = models.create("resnet26_policy", num_classes=5, width=0.125)
        >>> len(network.block_names), pruning.truncate(network, 2).block_names
        (3, ('block_01',))
    """
    kept = _kept(len(network.blocks), depth)
    return dataclasses.replace(network, blocks=network.blocks[:kept])


def truncate_variables(variables: Mapping[str, Mapping[str, Any]], depth: int) -> Variables:
    """Variables without the top ``depth`` of the blocks ``block_*``; everything else is kept as it is.

    The head is kept too, although it may not fit any more: where a block removed changed the number of
    channels, the head of the whole network cannot read what the last remaining block gives (`fit_head`).

    Args:
        variables: ``{"params": {name: tree}, "batch_stats": {name: tree}}``, or any other collections of
            trees by the same names.
        depth: number of blocks to leave out.

    Returns:
        New dictionaries around the same arrays.

    Raises:
        ValueError: ``depth`` is negative, or no block would be left.

    Examples:
        >>> from finetune_jax import pruning
        >>> variables = {"params": {"stem": 1, "block_01": 2, "block_02": 3, "head": 4}}
        >>> pruning.truncate_variables(variables, 1)
        {'params': {'stem': 1, 'block_01': 2, 'head': 4}}
    """
    names = weight_variation.block_names(
        {name: None for collection in variables.values() for name in collection}
    )
    removed = names[_kept(len(names), depth) :]
    return {
        kind: {name: tree for name, tree in collection.items() if name not in removed}
        for kind, collection in variables.items()
    }


def fit_head(
    network: Network,
    variables: Mapping[str, Mapping[str, Any]],
    key: jax.Array,
    images: jax.Array | jax.ShapeDtypeStruct,
) -> Variables:
    """Variables whose head fits the network.

    Args:
        network: for instance a truncated one.
        variables: of its other parts, and of a head of any shape.
        key: random key of a fresh head.
        images: ``[B, H, W, C]``; only the shape counts.

    Returns:
        The given head where every shape agrees; else a freshly initialised one, statistics included, with the
        parameters ``network.init_head(key)``.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import models, pruning
        >>> network = models.create("resnet26_policy", num_classes=5, width=0.125)
        >>> images = jnp.ones((1, 8, 8, 3))
        >>> variables = network.init(jax.random.key(0), images)
        >>> shorter = pruning.truncate(network, 1)
        >>> variables = pruning.fit_head(shorter, pruning.truncate_variables(variables, 1), jax.random.key(1), images)
        >>> shorter.apply(variables, images).shape
        (1, 5)
    """
    head = network.part("head")
    inputs = jax.eval_shape(lambda v, x: network.run(network.part_names[:-1], v, x)[0], variables, images)

    def statistics_and_parameters() -> tuple[Any, Any]:
        head_variables = head.init(jax.random.key(0), jnp.zeros(inputs.shape, jnp.float32), False)
        return head_variables.get("batch_stats", {}), head_variables.get("params", {})

    fitting = jax.eval_shape(statistics_and_parameters)
    present = (variables["batch_stats"]["head"], variables["params"]["head"])
    if _shapes(present) == _shapes(fitting):
        return {kind: dict(collection) for kind, collection in variables.items()}
    fresh = {
        "params": network.init_head(key),
        "batch_stats": jax.jit(lambda: statistics_and_parameters()[0])(),
    }
    return {kind: {**collection, "head": fresh[kind]} for kind, collection in variables.items()}


def search(evaluate: Callable[[int], float], max_depth: int) -> Search:
    """Remove one block more as long as the score does not fall, Algorithm 1.

    Args:
        evaluate: score, the higher the better, of the network fine-tuned from the pretrained weights without
            its top ``depth`` blocks. Called for 0, 1, 2 … in turn.
        max_depth: largest depth to try.

    Returns:
        The best depth, of equal ones the deepest (the smaller network), and every score. A score below the
        best so far, or NaN, ends the search; what lies beyond it is not looked at.

    Raises:
        ValueError: ``max_depth`` is negative, or the score of the whole network is NaN.

    Examples:
        >>> from finetune_jax import pruning
        >>> accuracies = {0: 0.80, 1: 0.82, 2: 0.83, 3: 0.79, 4: 0.75}
        >>> pruning.search(accuracies.get, max_depth=4)
        Search(best_depth=2, scores=(0.8, 0.82, 0.83, 0.79))
    """
    if max_depth < 0:
        raise ValueError(f"max_depth must be at least 0, got {max_depth}")
    scores: list[float] = []
    for depth in range(max_depth + 1):
        scores.append(float(evaluate(depth)))
        # Scores never fall before the last one, so the last one that does not is the best.
        if depth > 0 and not scores[-1] >= scores[-2]:
            return Search(depth - 1, tuple(scores))
        if math.isnan(scores[-1]):
            raise ValueError(
                "the score of the network without pruning is NaN, there is nothing to compare with"
            )
    return Search(max_depth, tuple(scores))


def _kept(count: int, depth: int) -> int:
    depth = operator.index(depth)
    if not 0 <= depth < count:
        raise ValueError(
            f"depth must be from 0 to {count - 1}, one less than the {count} blocks, got {depth}"
        )
    return count - depth


def _shapes(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [leaf.shape for leaf in leaves]
