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
        averages: ``{"params": of the trained parts, "batch_stats": of all}``, averaged over steps or epochs; None
            where nothing is averaged.
        tables: values of the epoch that steps look up, set anew for every pass and never saved: ``rate_factors``
            ``{part: float32 [steps]}``, ``mix_probability`` ``[]``, ``ema_decay`` ``[]``, each where it is needed;
            None where nothing is.
    """

    step: jax.Array
    key: jax.Array
    params: Tree
    frozen: Tree
    batch_stats: Tree
    opt_state: Tree
    totals: dict[str, jax.Array]
    averages: Tree | None = None
    tables: dict[str, Tree] | None = None

    @property
    def variables(self) -> dict[str, Tree]:
        """Of the whole network."""
        return {"params": {**self.frozen, **self.params}, "batch_stats": self.batch_stats}

    @property
    def averaged_variables(self) -> dict[str, Tree] | None:
        """Of the whole network, the averages in the place of what they average."""
        if self.averages is None:
            return None
        params = {**self.frozen, **self.averages["params"]}
        return {"params": params, "batch_stats": self.averages["batch_stats"]}


def create_state(
    variables: Mapping[str, Tree],
    trained: tuple[str, ...],
    optimizer: optax.GradientTransformation,
    *,
    key: jax.Array,
    totals: tuple[str, ...] = ("loss", "correct", "examples"),
    averaged: bool = False,
) -> TrainState:
    """The state before the first step, training the parts named in ``trained``, averaged or not."""
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
        # Copied: steps use up both.
        averages=jax.tree.map(jnp.array, {"params": params, "batch_stats": variables["batch_stats"]})
        if averaged
        else None,
    )


def zero_totals(names: tuple[str, ...]) -> dict[str, jax.Array]:
    """Sums at the start of an epoch."""
    return {name: jnp.zeros((), jnp.float32) for name in names}


def parameter_count(params: Tree) -> int:
    """Numbers in a tree of arrays, or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
