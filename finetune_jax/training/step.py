"""The train step: a pure function of one replica.

It knows no network, devices, files or flags. ``axis_name`` names the mapped axis to average over (``jax.pmap`` or
``jax.shard_map(check_vma=False)``); None runs on a single device under plain ``jax.jit``.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from finetune_jax.algorithms import averaging, clipping, optimizers
from finetune_jax.data.batch import Batch
from finetune_jax.training.state import TrainState, Tree

NORM = "gradient_norm/"
"""Beginning of the names of totals that are norms of the gradients of parts."""


class Outcome(NamedTuple):
    """What an objective returns beside the loss.

    Attributes:
        batch_stats: ``{part: tree}``, new statistics of the parts that changed theirs.
        totals: ``{name: float32 []}``, sums over the examples of the batch.
    """

    batch_stats: Tree
    totals: dict[str, jax.Array]


class Prepared(NamedTuple):
    """Examples as a network sees them.

    Attributes:
        images: float32 ``[B, H, W, C]``, augmented and normalised.
        labels: int32 ``[B]``, or float32 ``[B, num_classes]`` where labels are mixed.
        keys: random keys ``[B]`` of the examples.
        weights: float32 ``[B]``, factors of their losses; None where all count alike.
    """

    images: jax.Array
    labels: jax.Array
    keys: jax.Array
    weights: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a method minimises, in two stages.

    Attributes:
        prepare: ``(batch, key) → Prepared``.
        loss: ``(params, frozen, batch_stats, Prepared) → (loss, Outcome)``.
    """

    prepare: Callable[[Batch, jax.Array], Prepared]
    loss: Callable[[Tree, Tree, Tree, Prepared], tuple[jax.Array, Outcome]]

    def __call__(
        self, params: Tree, frozen: Tree, batch_stats: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Outcome]:
        """Loss and outcome of a batch."""
        return self.loss(params, frozen, batch_stats, self.prepare(batch, key))


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    axis_name: str | None = None,
    pieces: int = 1,
    clip: Callable[[Tree, Tree], Tree] | None = None,
    gives_loss: bool = False,
    in_shares: bool = False,
) -> TrainState:
    """One step of the optimiser on one batch.

    Gradients and running statistics are averaged over ``axis_name``, totals are summed.

    Args:
        state: before the step. Its ``tables`` change rates from step to step; with totals called
            ``gradient_norm/PART`` the norms of the gradients are summed too.
        batch: this replica's share.
        objective: what is minimised.
        optimizer: of the trained parts.
        axis_name: see above.
        pieces: so many equal pieces of the batch go through the network one after the other.
        clip: ``(gradients, params) → gradients`` of the whole batch.
        gives_loss: whether the optimiser asks for the loss.
        in_shares: whether each replica has its share of the parameters alone, and an objective that brings them
            together (``devices.shares``); gradients of shares are means over the replicas already.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    tables = state.tables or {}
    if "mix_probability" in tables:
        batch = batch._replace(mix_probability=tables["mix_probability"])
    value, gradients, outcome = _gradients(state, batch, key, objective, pieces)
    totals = outcome.totals
    batch_stats = outcome.batch_stats
    # Of one device alone, XLA would copy the gradients.
    if axis_name is not None and jax.lax.axis_size(axis_name) > 1:
        if in_shares:
            batch_stats = jax.lax.pmean(batch_stats, axis_name)
        else:
            gradients, batch_stats = jax.lax.pmean((gradients, batch_stats), axis_name)
        totals = jax.lax.psum(totals, axis_name)
        if gives_loss:
            value = jax.lax.pmean(value, axis_name)
    if any(name.startswith(NORM) for name in state.totals):
        norms = clipping.block_norms(gradients, axis_name if in_shares else None)
        totals = {**totals, **{NORM + name: norm * totals["examples"] for name, norm in norms.items()}}
    if clip is not None:
        gradients = clip(gradients, state.params)
    before = state.opt_state
    if "rate_factors" in tables:
        rates = optimizers.get_learning_rates(before)
        before = optimizers.set_learning_rates(before, _at_step(rates, tables["rate_factors"], state.step))
    more = {"value": value} if gives_loss else {}
    updates, opt_state = optimizer.update(gradients, before, state.params, **more)
    if "rate_factors" in tables:
        opt_state = optimizers.set_learning_rates(opt_state, rates)
    params = optax.apply_updates(state.params, updates)
    batch_stats = {**state.batch_stats, **batch_stats}
    averages = state.averages
    if averages is not None and "ema_decay" in tables:
        decay = averaging.ema_decay(tables["ema_decay"], state.step)
        averages = averaging.ema_update(averages, {"params": params, "batch_stats": batch_stats}, decay)
    return state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        totals=jax.tree.map(jnp.add, state.totals, totals),
        averages=averages,
    )


def _gradients(
    state: TrainState, batch: Batch, key: jax.Array, objective: Objective, pieces: int
) -> tuple[jax.Array, Tree, Outcome]:
    """Loss, its gradient and the outcome; means over the pieces of the batch, and sums of the totals."""
    params, batch_stats = state.params, state.batch_stats
    if pieces == 1:
        gradient = jax.value_and_grad(objective, has_aux=True)
        (value, outcome), gradients = gradient(params, state.frozen, batch_stats, batch, key)
        return value, gradients, outcome
    prepared = objective.prepare(batch, key)
    gradient = jax.value_and_grad(objective.loss, has_aux=True)
    size = len(prepared.labels) // pieces
    changed: Tree = {}
    sums = None
    for start in range(0, size * pieces, size):
        piece = jax.tree.map(lambda leaf, start=start: leaf[start : start + size], prepared)
        (value, outcome), gradients = gradient(params, state.frozen, {**batch_stats, **changed}, piece)
        changed = outcome.batch_stats
        terms = (value / pieces, jax.tree.map(lambda leaf: leaf / pieces, gradients), outcome.totals)
        sums = terms if sums is None else jax.tree.map(jnp.add, sums, terms)
        # One piece after the other, or all would hold their memory at once. (XLA is free to reorder the rest.)
        params, changed, sums = jax.lax.optimization_barrier((params, changed, sums))
    assert sums is not None
    value, gradients, totals = sums
    return value, gradients, Outcome(changed, totals)


def _at_step(
    rates: dict[str, jax.Array], factors: dict[str, jax.Array], step: jax.Array
) -> dict[str, jax.Array]:
    """The rates of one step of an epoch."""
    return {name: rates[name] * table[step % len(table)] for name, table in factors.items()}
