"""The state that a train step changes."""

import math
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

Tree = Any


class TrainState(flax.struct.PyTreeNode):
    """Everything a step changes, as arrays.

    Attributes:
        step: int32 ``[]``, steps taken in passes that counted, and in the current one.
        key: uint32 ``[2]``, data of the run's random key.
        params: ``{part: tree}`` of the trained parts.
        frozen: ``{part: tree}`` of the others; no gradient, no optimiser slot.
        batch_stats: ``{part: tree}`` of all parts.
        opt_state: of the optimiser over ``params``.
        totals: ``{name: float32 []}``, sums of the epoch so far.
    """

    step: jax.Array
    key: jax.Array
    params: Tree
    frozen: Tree
    batch_stats: Tree
    opt_state: Tree
    totals: dict[str, jax.Array]

    @property
    def variables(self) -> dict[str, Tree]:
        """Of the whole network."""
        return {"params": {**self.frozen, **self.params}, "batch_stats": self.batch_stats}


def create_state(
    variables: Mapping[str, Tree],
    trained: tuple[str, ...],
    optimizer: optax.GradientTransformation,
    *,
    key: jax.Array,
    totals: tuple[str, ...] = ("loss", "correct", "examples"),
) -> TrainState:
    """The state before the first step, training the parts named in ``trained``."""
    params = {name: tree for name, tree in variables["params"].items() if name in trained}
    frozen = {name: tree for name, tree in variables["params"].items() if name not in trained}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(key),
        params=params,
        frozen=frozen,
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(params),
        totals=zero_totals(totals),
    )


def zero_totals(names: tuple[str, ...]) -> dict[str, jax.Array]:
    """Sums at the start of an epoch."""
    return {name: jnp.zeros((), jnp.float32) for name in names}


def parameter_count(params: Tree) -> int:
    """Numbers in a tree of arrays, or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
