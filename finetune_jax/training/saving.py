"""The training state as a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from finetune_jax.files import saved_shares
from finetune_jax.files.checkpoints import Checkpoints, restore, targets
from finetune_jax.training.placement import Placement
from finetune_jax.training.state import TrainState


def open_saver(directory: Path, placement: Placement, keep_best: int = 1) -> Checkpoints:
    """What saves the states of a run; every process of a job opens one.

    Args:
        directory: the ``checkpoints/`` folder.
        placement: of the run.
        keep_best: how many of the best checkpoints stay.

    Raises:
        UserError: the folder cannot be created or written.
    """
    together = placement.in_shares and placement.replicas.process_count > 1
    return Checkpoints(
        directory,
        writable=together or placement.replicas.is_primary,
        keep_best=keep_best,
        together=together,
    )


def card_of_shares(placement: Placement) -> dict[str, Any]:
    """What the JSON of a checkpoint says of shares, nothing where arrays are whole."""
    replicas = placement.replicas
    return saved_shares.card(replicas.count, replicas.process_count) if placement.in_shares else {}


def save_state(
    saver: Checkpoints,
    state: TrainState,
    meta: Mapping[str, Any],
    *,
    score: float | None,
    steps_trained: int | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Save a state in the background.

    Args:
        saver: of the ``checkpoints/`` folder.
        state: its arrays are copied to the host before this returns; where all processes write, those of
            ``Placement.across_processes``.
        meta: JSON.
        score: larger is better; None where the state was not evaluated.
        steps_trained: number of the checkpoint, by default the step of the state.
        more: further items, ``{name: tree of arrays}``.

    Raises:
        UserError: the disk is full or not writable, now or in the save before; earlier checkpoints are intact.
        ValueError: there is a checkpoint of a later step.
    """
    if not saver.writable:
        return
    number = int(state.step) if steps_trained is None else steps_trained
    host = state if saver.together else jax.device_get(state)
    items = {"variables": host.variables, "training": _training(host), **(more or {})}
    if host.averages is not None:
        items["averages"] = host.averages
    saver.save(number, items, meta, score=score)


def restore_state(directory: Path, step: int, like: TrainState) -> TrainState:
    """The state of a checkpoint, as host arrays.

    Args:
        directory: the ``checkpoints/`` folder.
        step: one that ``checkpoints.latest_step`` or ``best_step`` gave.
        like: a state of the same structure and shapes.

    Raises:
        UserError: the checkpoint is of another network or optimiser, or damaged.
    """
    restored = restore(
        directory,
        step,
        variables=ocp.args.StandardRestore(targets(like.variables)),
        training=ocp.args.StandardRestore(targets(_training(like))),
    )
    params = restored["variables"]["params"]
    averages = None if like.averages is None else restore_averages(directory, step, like.averages)
    return like.replace(
        averages=averages,
        params={name: params[name] for name in like.params},
        frozen={name: params[name] for name in like.frozen},
        batch_stats=restored["variables"]["batch_stats"],
        **restored["training"],
    )


def restore_averages(directory: Path, step: int, like: Any) -> Any:
    """The averages of a checkpoint, as host arrays; arguments and errors as of :func:`restore_state`."""
    return restore(directory, step, averages=ocp.args.StandardRestore(targets(like)))["averages"]


def _training(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "key": state.key, "opt_state": state.opt_state, "totals": state.totals}
