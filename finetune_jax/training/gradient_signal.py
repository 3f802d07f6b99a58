"""How much of the gradients of a few batches is signal: measured between passes, and nothing is trained by it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import block_rates
from finetune_jax.data.batch import Batch
from finetune_jax.data.feeds import Feed
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.training.state import TrainState, Tree
from finetune_jax.training.step import Objective

BATCHES = 5
"""Batches whose gradients are compared, as in the code of Lee et al. (2023)."""


class _Gathered(NamedTuple):
    """What a batch adds to: ``sums`` of gradients, ``{part: tree}``, and ``squares`` of their norms, ``{part: []}``."""

    step: jax.Array
    key: jax.Array
    params: Tree
    frozen: Tree
    batch_stats: Tree
    sums: Tree
    squares: dict[str, jax.Array]


def measuring(
    objective: Objective,
    feed: Feed,
    order: Callable[[int], np.ndarray],
    blocks: tuple[str, ...],
    replicas: Replicas,
) -> Callable[[TrainState], np.ndarray]:
    """State after an epoch to the signal-to-noise ratio ``[K]`` of the gradient of each block.

    The batches are the first of the epoch that follows, as its steps will see them. Neither weights nor random numbers
    change. See :func:`finetune_jax.algorithms.block_rates.signal_to_noise`.

    Args:
        objective: of the run.
        feed: of the training images.
        order: of an epoch, ``[steps, B]``.
        blocks: names of the K trained blocks.
        replicas: where.
    """

    def gather(state: _Gathered, batch: Batch) -> _Gathered:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        gradient = jax.grad(objective, has_aux=True)
        gradients, _ = gradient(state.params, state.frozen, state.batch_stats, batch, key)
        gradients = jax.lax.pmean({name: gradients[name] for name in blocks}, AXIS)
        squares = {name: _square(tree) for name, tree in gradients.items()}
        return state._replace(
            step=state.step + 1,
            sums=jax.tree.map(jnp.add, state.sums, gradients),
            squares=jax.tree.map(jnp.add, state.squares, squares),
        )

    compiled = functools.cache(lambda: feed.compile_training(gather))

    def measure(state: TrainState) -> np.ndarray:
        rows = order(int(state.step) // len(order(0)))[:BATCHES]
        of_blocks = {name: state.params[name] for name in blocks}
        # Steps use their state up.
        step, key, params, frozen, statistics = _copied(
            (state.step, state.key, state.params, state.frozen, state.batch_stats)
        )
        gathered = _Gathered(
            step,
            key,
            params,
            frozen,
            statistics,
            sums=jax.tree.map(jnp.zeros_like, of_blocks),
            squares=replicas.replicate({name: np.zeros((), np.float32) for name in blocks}),
        )
        for after, _ in compiled()(gathered, rows):
            gathered = after
        sums, squares = jax.device_get(_norms(gathered.sums, gathered.squares, blocks))
        return block_rates.signal_to_noise(sums, squares, len(rows))

    return measure


def _square(tree: Tree) -> jax.Array:
    return jnp.sum(jnp.stack([jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)]))


@jax.jit
def _copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


@functools.partial(jax.jit, static_argnames="blocks")
def _norms(sums: Tree, squares: dict[str, jax.Array], blocks: tuple[str, ...]) -> tuple[jax.Array, jax.Array]:
    return jnp.stack([_square(sums[name]) for name in blocks]), jnp.stack([squares[name] for name in blocks])
