"""Checks that losses and weights are finite."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import weight_variation
from finetune_jax.devices import shares
from finetune_jax.devices.replicas import AXIS
from finetune_jax.errors import Diverged
from finetune_jax.training.placement import Placement
from finetune_jax.training.plan import Start
from finetune_jax.training.state import TrainState, Tree
from finetune_jax.training.tuning import Tuner


@functools.cache
def measure_pass(
    blocks: tuple[str, ...], measure: str = "mean"
) -> Callable[[Start, TrainState], tuple[jax.Array, jax.Array]]:
    """``(start, state) → (variations [K], whether losses and weights are finite)``, the same for all runs."""

    def of_pass(start: Start, state: TrainState) -> tuple[jax.Array, jax.Array]:
        variations = jnp.zeros(0)
        if blocks:
            variations = weight_variation.weight_variation(
                start.params, state.params, blocks=blocks, measure=measure
            )
        checked = (state.totals["loss"], state.params, state.batch_stats)
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(checked)]).all()
        return variations, finite

    return jax.jit(of_pass)


def measuring(
    tuner: Tuner, placement: Placement, params: Tree
) -> Callable[[Start, TrainState], tuple[jax.Array, jax.Array]]:
    """:func:`measure_pass` for what a tuner asks, wherever the parameters are.

    Args:
        tuner: of the run.
        placement: of the run.
        params: the trained ones, whole, or their shapes.
    """
    if not placement.in_shares:
        return measure_pass(tuner.blocks, tuner.measure)
    counts = weight_variation.kernel_counts(params, blocks=tuner.blocks)
    compiled: list[Callable[[Start, TrainState], tuple[jax.Array, jax.Array]]] = []

    def measured(start: Start, state: TrainState) -> tuple[jax.Array, jax.Array]:
        if not compiled:
            compiled.append(measure_pass_in_shares(tuner.blocks, counts, placement, start, state))
        return compiled[0](start, state)

    return measured


def measure_pass_in_shares(
    blocks: tuple[str, ...], counts: np.ndarray, placement: Placement, start: Start, state: TrainState
) -> Callable[[Start, TrainState], tuple[jax.Array, jax.Array]]:
    """:func:`measure_pass` where parameters are in shares over the replicas.

    Args:
        blocks: whose variations are measured.
        counts: int ``[K]``, elements of the kernels of each block.
        placement: of the run.
        start: one on the devices.
        state: likewise.
    """

    def measure(start: Start, state: TrainState) -> tuple[jax.Array, jax.Array]:
        variations = jnp.zeros(0)
        if blocks:
            elements = weight_variation.kernel_counts(state.params, blocks=blocks)
            share_norms = (
                weight_variation.weight_variation(start.params, state.params, blocks=blocks) * elements
            )
            # Squares of small norms do not fit into float32.
            largest = jax.lax.pmax(share_norms, AXIS)
            scale = jnp.where(largest == 0, 1, largest)
            variations = scale * jnp.sqrt(jax.lax.psum(jnp.square(share_norms / scale), AXIS)) / counts
        checked = (state.totals["loss"], state.params, state.batch_stats)
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(checked)]).all()
        return variations, jax.lax.pmin(finite.astype(jnp.int32), AXIS)

    axes = (Start(shares.axes(start.params), None), placement.axes(state))
    return placement.replicas.map(measure, axes)


def refuse_if_not_finite(state: TrainState, step: int) -> None:
    """Refuse a state whose losses or weights are not finite.

    Raises:
        Diverged: names the rate to lower.
    """
    check_finite("training loss is", state.totals["loss"], step)
    # The weights fail one step before the loss does.
    check_finite("weights are", state.variables, step)


def check_finite(what: str, tree: Any, step: int) -> None:
    """Refuse a tree with values that are not finite.

    Raises:
        Diverged: names ``what`` and the step.
    """
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)):
        raise Diverged(
            f"the {what} not finite by step {step}: lower --learning_rate (or check the images with "
            "finetune-jax check_data); the last checkpoint is from before and intact"
        )
