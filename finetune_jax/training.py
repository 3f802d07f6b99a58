"""The loop over epochs: rates, steps, evaluation, selection, checkpoints.

It knows no method and no network: what a step does comes in as a function, what an epoch's rates are as
another, and what is measured as a third.
"""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import jax
import numpy as np

from finetune_jax import checkpoints, optimizers
from finetune_jax.data.feeds import Training
from finetune_jax.errors import Stopped, UserError
from finetune_jax.parallel import Replicas
from finetune_jax.progress import Progress
from finetune_jax.run_directory import RunDirectory
from finetune_jax.step import TrainState

# How far the host runs ahead of the devices.
_DISPATCHES_AHEAD = 32


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one run does in its epochs.

    Attributes:
        epochs: at most this many.
        batch_size: images per step over all replicas.
        order: epoch to index array ``[steps, batch_size]``, the same number of steps every epoch.
        rates: epoch to ``{part: learning rate}``.
        evaluate: state to measured numbers; the one named ``score`` decides.
        score: name of the number that chooses the best checkpoint (larger is better); empty takes the last.
        patience: stop after this many epochs without a better score; 0 never.
        checkpoint_steps: also save every this many steps; 0 only after epochs.
        card: what prediction needs beside the variables, JSON.
    """

    epochs: int
    batch_size: int
    order: Callable[[int], np.ndarray]
    rates: Callable[[int], Mapping[str, float]]
    evaluate: Callable[[TrainState], Mapping[str, float]]
    score: str
    patience: int
    checkpoint_steps: int
    card: Mapping[str, Any]


class StopRequest:
    """Turns SIGTERM into a question the loop asks between two dispatches."""

    def __init__(self, replicas: Replicas) -> None:
        self._several = replicas.process_count > 1
        self._asked = 0
        self.came = False

    def __enter__(self) -> "StopRequest":
        if not self._several:
            self._previous = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._several:
            signal.signal(signal.SIGTERM, self._previous)

    def __call__(self) -> bool:
        """Whether to save and stop now; all processes of a job, asking equally often, get the same answer."""
        if self._several and not self.came:
            from jax.experimental import multihost_utils

            # The processes agree on the number after the largest one asked so far, so none may be left out.
            self._asked += 1
            self.came = multihost_utils.reached_preemption_sync_point(self._asked)
        return self.came

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self.came = True


def fit(
    state: TrainState, train: Training, plan: Plan, replicas: Replicas, directory: RunDirectory
) -> list[dict[str, str]]:
    """Train, or go on with training, until the plan is fulfilled.

    Args:
        state: host arrays of the start; a checkpoint in the directory takes its place.
        train: the compiled step over an order; uses up the state it is given.
        plan: what to do.
        replicas: where.
        directory: of this run.

    Returns:
        The rows of ``metrics.csv``.

    Raises:
        UserError: the loss is not finite, or a file cannot be written.
        Stopped: SIGTERM came; the state is saved.
    """
    with StopRequest(replicas) as stop_requested, _Loop(train, plan, replicas, directory) as loop:
        loop.run(state, stop_requested)
    return directory.read_metrics()


class _Loop:
    def __init__(self, train: Training, plan: Plan, replicas: Replicas, directory: RunDirectory) -> None:
        self._train = train
        self._plan = plan
        self._replicas = replicas
        self._directory = directory
        with replicas.together():
            self._saver = checkpoints.Checkpoints(directory.checkpoints, writable=replicas.is_primary)
        self._best_score = -math.inf
        self._best_epoch = -1

    def __enter__(self) -> "_Loop":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Also after an error what was handed over for saving is still written, but the first error is the one
        # to tell. Stopped promises that all is saved; afterwards the other processes read it.
        if kind in (None, Stopped):
            with self._replicas.together():
                self._close()
        else:
            with contextlib.suppress(UserError):
                self._close()

    def _close(self) -> None:
        try:
            self._directory.close()
        finally:
            self._saver.close()

    def run(self, state: TrainState, stop_requested: StopRequest) -> None:
        plan = self._plan
        steps = len(plan.order(0))
        with self._replicas.together():
            state = self._resume(state)
        done = int(state.step)
        first, start = divmod(done, steps)
        progress = Progress(
            (plan.epochs * steps - done) * plan.batch_size, silent=not self._replicas.is_primary
        )
        state = self._replicas.replicate(state)
        for epoch in range(first, plan.epochs):
            if plan.patience and epoch - self._best_epoch > plan.patience:
                progress.line(f"stopped early: no better {plan.score} for {plan.patience} epochs")
                break
            began = time.monotonic()
            state = self._begin_epoch(state, epoch, fresh=start == 0)
            state = self._steps(state, epoch, start, progress, stop_requested)
            start = 0
            self._end_epoch(state, epoch, began, progress)
            if stop_requested.came:
                raise Stopped(f"stopped; start again with the same flags to go on ({self._directory.path})")

    def _resume(self, state: TrainState) -> TrainState:
        latest = checkpoints.latest_step(self._directory.checkpoints)
        if latest is None:
            self._directory.drop_metrics_after(0)
            return state
        meta = checkpoints.read_meta(self._directory.checkpoints, latest)
        if meta["best_score"] is not None:
            self._best_score, self._best_epoch = meta["best_score"], meta["best_epoch"]
        self._directory.drop_metrics_after(latest)
        return checkpoints.restore_state(self._directory.checkpoints, latest, state)

    def _begin_epoch(self, state: TrainState, epoch: int, *, fresh: bool) -> TrainState:
        rates = self._plan.rates(epoch)
        state = state.replace(opt_state=optimizers.set_learning_rates(state.opt_state, rates))
        if fresh:
            zeros = {name: np.zeros((), np.float32) for name in state.totals}
            state = state.replace(totals=self._replicas.replicate(zeros))
        return state

    def _steps(
        self, state: TrainState, epoch: int, start: int, progress: Progress, stop_requested: StopRequest
    ) -> TrainState:
        plan = self._plan
        order = plan.order(epoch)
        step = epoch * len(order) + start
        dispatches = 0
        for after, taken in self._train(state, order[start:]):
            state = after
            previous, step, dispatches = step, step + taken, dispatches + 1
            if progress.advance(taken * plan.batch_size):
                progress.show(f"epoch {epoch + 1}/{plan.epochs}", self._means(state, step))
            elif dispatches % _DISPATCHES_AHEAD == 0:
                jax.block_until_ready(state.step)
            stopping = stop_requested()
            if step % len(order) == 0:
                continue  # the end of an epoch is saved with its evaluation
            every = plan.checkpoint_steps
            if stopping or (every and step // every > previous // every):
                self._save(self._fetch(state), None)
            if stopping:
                raise Stopped(f"stopped; start again with the same flags to go on ({self._directory.path})")
        return state

    def _end_epoch(self, state: TrainState, epoch: int, began: float, progress: Progress) -> None:
        plan = self._plan
        step = int(state.step)
        host = self._fetch(state)
        means = self._means(host, step)
        measured = plan.evaluate(state)
        # Without a score the latest epoch counts as the best.
        score: float | None = measured[plan.score] if plan.score else float(epoch)
        if score is None or not math.isfinite(score):
            score = None
        elif score > self._best_score:
            self._best_score, self._best_epoch = score, epoch
        rates = plan.rates(epoch)
        row = {
            "epoch": epoch + 1,
            "step": step,
            **{f"train_{name}": value for name, value in means.items()},
            **measured,
            "learning_rate": max(rates.values()),
            "seconds": round(time.monotonic() - began, 3),
        }
        with self._replicas.together():
            self._directory.add_scalars({f"rate/{name}": rate for name, rate in rates.items()}, epoch + 1)
            self._directory.add_metrics(row)
        self._save(host, score)
        progress.line(f"epoch {epoch + 1}/{plan.epochs}  {_shown(row)}  {row['seconds']:.1f} s")

    def _fetch(self, state: TrainState) -> TrainState:
        """The state as host arrays, refused where it is of no use for going on."""
        host = jax.device_get(state)
        _check_finite("training loss is", host.totals["loss"], host.step)
        # The weights fail one step before the loss does.
        _check_finite("weights are", host.variables, host.step)
        return host

    def _means(self, state: TrainState, step: int) -> dict[str, float]:
        totals = {name: float(value) for name, value in jax.device_get(state.totals).items()}
        _check_finite("training loss is", totals["loss"], step)
        examples = max(totals["examples"], 1.0)
        means = {"loss": totals["loss"] / examples}
        if "correct" in totals:
            means["accuracy"] = totals["correct"] / examples
        return means

    def _save(self, state: TrainState, score: float | None) -> None:
        meta = {
            **self._plan.card,
            "best_score": None if self._best_epoch < 0 else self._best_score,
            "best_epoch": self._best_epoch,
        }
        with self._replicas.together():
            self._saver.save(state, meta, score=score)


def _shown(row: Mapping[str, Any]) -> str:
    """``train loss 0.12 accuracy 0.95  validation …``: what tells most of a row."""
    parts = []
    for split in ("train", "validation", "test"):
        values = [(name, row.get(f"{split}_{name}")) for name in ("loss", "accuracy")]
        numbers = " ".join(f"{name} {value:.4f}" for name, value in values if value is not None)
        if numbers:
            parts.append(f"{split} {numbers}")
    return "  ".join(parts)


def _check_finite(what: str, tree: Any, step: int) -> None:
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)):
        raise UserError(
            f"the {what} not finite by step {step}: lower --learning_rate (or check the images with "
            "experiments.check_data); the last checkpoint is from before and intact"
        )
