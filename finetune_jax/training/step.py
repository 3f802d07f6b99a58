"""The train step: a pure function of one replica.

It knows no network, devices, files or flags. ``axis_name`` names the mapped axis to average over (``jax.pmap`` or
``jax.shard_map(check_vma=False)``); None runs on a single device under plain ``jax.jit``.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from finetune_jax.data.batch import Batch
from finetune_jax.training.state import TrainState, Tree


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
