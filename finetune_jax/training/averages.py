"""Averages of the weights in a run: which there are, when they change, and whether they are the better weights."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from finetune_jax.algorithms import averaging, optimizers
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.training.placement import Placement
from finetune_jax.training.state import TrainState

EMA, SWA, SCHEDULE_FREE = "ema", "swa", "schedule_free"
"""Kinds of averages: of every step, of the last epochs, and those that the optimiser makes."""


def kind_of(config: FinetuneConfig) -> str | None:
    """The kind of averages of a run; None where there are none."""
    if config.optimizer == "schedule_free_adamw":
        return SCHEDULE_FREE
    if config.swa_epochs:
        return SWA
    return None if config.ema_decay is None else EMA


def estimates_statistics(config: FinetuneConfig) -> bool:
    """Whether averages get statistics of norms of their own after every epoch; those of every step do not."""
    return kind_of(config) in (SWA, SCHEDULE_FREE) and config.average_statistics == "estimated"


def updating(
    config: FinetuneConfig,
    placement: Placement,
    estimate: Callable[[TrainState, int], TrainState] | None = None,
) -> Callable[[TrainState, int], TrainState] | None:
    """``(state, epoch) → state`` after the steps of an epoch; None where steps alone change the averages.

    Args:
        config: of the run, resolved.
        placement: where.
        estimate: gives the averages of a state after an epoch statistics of norms of their own; None leaves them those
            that were averaged, or of the last step.
    """
    update = _updating(config, placement)
    if update is None or estimate is None:
        return update
    first = config.epochs - config.swa_epochs if kind_of(config) == SWA else 0

    def updated(state: TrainState, epoch: int) -> TrainState:
        state = update(state, epoch)
        return state if epoch < first else estimate(state, epoch)

    return updated


def _updating(config: FinetuneConfig, placement: Placement) -> Callable[[TrainState, int], TrainState] | None:
    replicas = placement.replicas
    kind = kind_of(config)
    if kind == SCHEDULE_FREE:

        def evaluated(params: Any, opt_state: Any, batch_stats: Any) -> Any:
            return jax.tree.map(
                jnp.copy,
                {"params": optimizers.evaluation_params(opt_state, params), "batch_stats": batch_stats},
            )

        of_steps = _elementwise(
            placement, evaluated, lambda state: (state.params, state.opt_state, state.batch_stats)
        )
        return lambda state, epoch: state.replace(averages=of_steps(state))
    if kind == SWA:
        first = config.epochs - config.swa_epochs

        def added(averages: Any, params: Any, batch_stats: Any, count: Any) -> Any:
            return averaging.mean_update(averages, {"params": params, "batch_stats": batch_stats}, count)

        add = _elementwise(placement, added, lambda state: (state.averages, state.params, state.batch_stats))

        def of_epochs(state: TrainState, epoch: int) -> TrainState:
            if epoch < first:
                return state
            count = replicas.replicate(jnp.asarray(epoch - first, jnp.int32))
            return state.replace(averages=add(state, count))

        return of_epochs
    return None


def _elementwise(
    placement: Placement, function: Callable[..., Any], chosen: Callable[[TrainState], tuple[Any, ...]]
) -> Callable[..., Any]:
    """``function`` of the chosen pieces of a state, and of numbers, to new averages; compiled.

    It treats all elements of an array alike, so that shares of arrays give shares of the result.
    """
    if not placement.in_shares:
        replicated = placement.replicas.map_replicated(function)
        return lambda state, *numbers: replicated(*chosen(state), *numbers)
    mapped: list[Callable[..., Any]] = []

    def call(state: TrainState, *numbers: Any) -> Any:
        if not mapped:
            axes = placement.axes(state)
            of_result = {"params": axes.params, "batch_stats": None}
            in_axes = (*chosen(axes), *[None for _ in numbers])
            mapped.append(placement.replicas.map(function, in_axes, of_result))
        return mapped[0](*chosen(state), *numbers)

    return call


def scores_of_better(
    config: FinetuneConfig,
    score: str,
    state: TrainState,
    epoch: int,
    scores_of: Callable[[Any], dict[str, float]],
) -> dict[str, float | None]:
    """Scores of the weights of a state or of their averages, whichever are better, and both scores beside them.

    Args:
        config: of the run, resolved.
        score: by which they are compared, without its split.
        state: after an epoch.
        epoch: 0-based.
        scores_of: variables of the network to their scores.
    """
    kind = kind_of(config)
    if kind is None:
        return dict(scores_of(state.variables))
    if kind == SCHEDULE_FREE:
        return dict(scores_of(state.averaged_variables))
    of_weights, name = scores_of(state.variables), compared_score(config, score)
    if name not in of_weights:
        return dict(scores_of(state.averaged_variables))
    of_average: dict[str, float] = {}
    if kind == EMA or epoch >= config.epochs - config.swa_epochs:
        of_average = scores_of(state.averaged_variables)
    is_better = bool(of_average) and of_average[name] > of_weights[name]
    return {
        **(of_average if is_better else of_weights),
        f"{name}_weights": of_weights[name],
        f"{name}_{kind}": of_average.get(name),
    }


def compared_score(config: FinetuneConfig, score: str) -> str:
    """Name of the score by which weights and averages are compared."""
    split = "validation" if config.select_on == "last" else config.select_on
    return f"{split}_{score}"


def are_better(config: FinetuneConfig, score: str, row: Mapping[str, str]) -> bool:
    """Whether the averages of an epoch are its result, from its row of ``metrics.csv``; False without averages."""
    kind = kind_of(config)
    if kind is None:
        return False
    name = compared_score(config, score)
    if kind == SCHEDULE_FREE or f"{name}_weights" not in row:
        return True
    of_average = row[f"{name}_{kind}"]
    return bool(of_average) and float(of_average) > float(row[f"{name}_weights"])
