"""The train step: a pure function of one replica.

It knows no network, devices, files or flags. ``axis_name`` names the mapped axis to average over (``jax.pmap`` or
``jax.shard_map(check_vma=False)``); None runs on a single device under plain ``jax.jit``.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

Tree = Any


class Batch(NamedTuple):
    """One replica's share of a batch.

    Attributes:
        images: uint8 ``[B, H, W, C]``.
        labels: int32 ``[B]``.
        slots: int32 ``[B]``, place of each example in the batch over all replicas; random draws of an example
            depend on it and not on the replica.
        aspects: float32 ``[B]``, width over height of the images before they were stretched to squares; None where
            that is not to be undone.
    """

    images: jax.Array
    labels: jax.Array
    slots: jax.Array
    aspects: jax.Array | None = None


class TrainState(flax.struct.PyTreeNode):
    """Everything a step changes, as arrays.

    Attributes:
        step: int32 ``[]``, steps taken.
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


class Outcome(NamedTuple):
    """What an objective returns beside the loss.

    Attributes:
        batch_stats: ``{part: tree}``, new statistics of the parts that changed theirs.
        totals: ``{name: float32 []}``, sums over the examples of the batch.
    """

    batch_stats: Tree
    totals: dict[str, jax.Array]


Objective = Callable[[Tree, Tree, Tree, Batch, jax.Array], tuple[jax.Array, Outcome]]
"""``(params, frozen, batch_stats, batch, key) → (loss, Outcome)``: what a method minimises."""


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    axis_name: str | None = None,
) -> TrainState:
    """One step of the optimiser on one batch.

    Gradients and running statistics are averaged over ``axis_name``, totals are summed.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    gradient = jax.grad(objective, has_aux=True)
    gradients, outcome = gradient(state.params, state.frozen, state.batch_stats, batch, key)
    totals = outcome.totals
    batch_stats = outcome.batch_stats
    # Of one device alone, XLA would copy the gradients.
    if axis_name is not None and jax.lax.axis_size(axis_name) > 1:
        gradients, batch_stats = jax.lax.pmean((gradients, batch_stats), axis_name)
        totals = jax.lax.psum(totals, axis_name)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    return state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats={**state.batch_stats, **batch_stats},
        opt_state=opt_state,
        totals=jax.tree.map(jnp.add, state.totals, totals),
    )


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


def normalizer(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[jax.Array], jax.Array]:
    """Images of 0 to 255 to zero mean and unit variance per channel, float32."""
    scale = 1 / (255 * jnp.asarray(std, jnp.float32))
    offset = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return lambda images: images.astype(jnp.float32) * scale - offset
