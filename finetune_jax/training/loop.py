"""The loop over epochs: rates, steps, evaluation, selection, checkpoints.

It knows no method and no network: what a step does comes in as a function, what is measured as another, and a
tuner decides the rates of every pass over the images and whether the pass counts. The weights that an epoch
starts from stay on the devices, so throwing a pass away costs no disk access.

:class:`Loop` asks for the steps of each pass instead of taking them, so that whoever takes them may do so for
several runs at once (``finetune_jax.together``).
"""

import contextlib
import math
import time
from collections.abc import Generator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import optimizers
from finetune_jax.data.feeds import Training
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import Stopped, UserError, readable
from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.files.trials import Trial, Trials
from finetune_jax.training import saving
from finetune_jax.training.divergence import check_finite, measure_pass, refuse_if_not_finite
from finetune_jax.training.plan import Plan, Start, Steps
from finetune_jax.training.progress import Progress
from finetune_jax.training.rows import RATES_OF_NETWORK, pass_row, shown, trial_line
from finetune_jax.training.state import TrainState
from finetune_jax.training.stopping import Stop, StopRequest
from finetune_jax.training.tuning import Pass, TunerState, Verdict

# How far the host runs ahead of the devices.
_DISPATCHES_AHEAD = 32


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
        Diverged: the loss or a weight is not finite.
        UserError: a file cannot be written.
        Stopped: SIGTERM or Ctrl-C came; the state is saved.
    """
    progress = Progress(0, silent=not replicas.is_primary)
    with (
        StopRequest(replicas) as stop_requested,
        Loop(plan, replicas, directory, progress) as loop,
        contextlib.suppress(StopIteration),
    ):
        run = loop.run(state, stop_requested)
        del state  # its momentum would stay until the end, beside the devices' copy
        wanted = next(run)
        while True:
            for taken in train(wanted.state, wanted.order):
                wanted = run.send(taken)
    return directory.read_metrics()


class Loop:
    """One run; what it does between the steps, and on disk."""

    def __init__(
        self, plan: Plan, replicas: Replicas, directory: RunDirectory, progress: Progress, name: str = ""
    ) -> None:
        """Open the run directory's files.

        Args:
            plan: what to do.
            replicas: where.
            directory: of the run.
            progress: told of every step.
            name: of the run, where progress is of several.
        """
        self._plan = plan
        self._replicas = replicas
        self._directory = directory
        self._steps = len(plan.order(0))
        self._tuning: TunerState = plan.tuner.initial()
        self._passes = 0  # over the training images so far, those thrown away included
        with replicas.together():
            self._saver = checkpoints.Checkpoints(directory.checkpoints, writable=replicas.is_primary)
            self._trials = Trials(directory.trials, writable=replicas.is_primary and plan.tuner.rejects)
        self._best_score = -math.inf
        self._best_epoch = -1
        self._progress = progress
        self._name = f"{name}  " if name else ""

    def __enter__(self) -> "Loop":
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
        with contextlib.ExitStack() as closing:
            closing.callback(self._saver.close)
            closing.callback(self._trials.close)
            closing.callback(self._directory.close)

    def run(self, state: TrainState, stop_requested: Stop) -> Generator[Any, tuple[TrainState, int], None]:
        """Go through the epochs, asking for the steps of each pass and taking in what became of them.

        Args:
            state: host arrays of the start; a checkpoint in the directory takes its place.
            stop_requested: asked after every answer.

        Yields:
            The :class:`Steps` wanted, then None until they are all taken; each is answered by the state after
            some steps more, and how many these were.

        Raises:
            Diverged: the loss or a weight is not finite.
            UserError: a file cannot be written.
            Stopped: a stop was requested; the state is saved.
        """
        plan, steps = self._plan, self._steps
        with self._replicas.together():
            state, start = self._resume(state)
        epoch, step = divmod(int(state.step), steps)
        self._progress.expect(((plan.epochs - epoch) * steps - step) * plan.batch_size)
        state = self._replicas.replicate(state)
        start = None if start is None else self._replicas.replicate(start)
        while epoch < plan.epochs:
            if plan.patience and epoch - self._best_epoch > plan.patience:
                self._progress.line(
                    f"{self._name}stopped early: no better {plan.score} for {plan.patience} epochs"
                )
                break
            began = time.monotonic()
            while True:
                if start is None:
                    state, start = self._begin_pass(state)
                state = yield from self._take_steps(state, start, epoch, step, stop_requested)
                state, verdict, row = self._end_pass(state, start, epoch)
                start, step = None, 0
                if verdict.accepted:
                    break
                self._stop_if(stop_requested, f"in epoch {epoch + 1}", self._passes * steps)
            self._end_epoch(state, epoch, row, began)
            self._stop_if(stop_requested, f"after epoch {epoch + 1}", self._passes * steps)
            epoch += 1

    def _resume(self, state: TrainState) -> tuple[TrainState, Start | None]:
        """The state to go on with, and, in the middle of a pass, where that pass started."""
        folder, number = self._directory.checkpoints, checkpoints.latest_step(self._directory.checkpoints)
        start = None
        if number is not None:
            meta = checkpoints.read_meta(folder, number)
            if meta["best_score"] is not None:
                self._best_score, self._best_epoch = meta["best_score"], meta["best_epoch"]
            state = saving.restore_state(folder, number, state)
            like = Start(state.params, state.batch_stats)
            start = checkpoints.restore_item(folder, number, "start", like)
            self._passes = number // self._steps
            if jax.tree.leaves(self._tuning):
                self._tuning = checkpoints.restore_item(folder, number, "tuning", self._tuning)
        self._directory.drop_rows_after(number or 0)
        # Passes that were thrown away since then need not be trained again.
        epoch = int(state.step) // self._steps
        while (trial := self._trials.read(self._passes, self._tuning)) is not None and not trial.accepted:
            if start is not None:
                state = state.replace(params=start.params, batch_stats=start.batch_stats)
                start = None
            state = state.replace(step=np.asarray(epoch * self._steps, np.int32))
            self._tuning = trial.tuning
            self._passes += 1
            self._directory.add_pass(trial.row)
        return state, start

    def _begin_pass(self, state: TrainState) -> tuple[TrainState, Start]:
        tuner = self._plan.tuner
        start = Start(*_copy((state.params, state.batch_stats)))
        opt_state = optimizers.reset(state.opt_state) if tuner.rejects else state.opt_state
        zeros = {name: np.zeros((), np.float32) for name in state.totals}
        return state.replace(opt_state=opt_state, totals=self._replicas.replicate(zeros)), start

    def _take_steps(
        self, state: TrainState, start: Start, epoch: int, step: int, stop_requested: Stop
    ) -> Generator[Any, tuple[TrainState, int], TrainState]:
        """The steps of a pass from ``step`` on."""
        plan = self._plan
        rates = plan.tuner.rates(self._tuning, epoch)
        state = state.replace(opt_state=optimizers.set_learning_rates(state.opt_state, rates))
        order = plan.order(epoch)
        label = f"{self._name}epoch {epoch + 1}/{plan.epochs}"
        dispatches = 0
        wanted: Steps | None = Steps(epoch, step, state, order[step:])
        while step < self._steps:
            state, taken = yield wanted
            wanted = None
            previous, step, dispatches = step, step + taken, dispatches + 1
            if self._progress.advance(taken * plan.batch_size):
                means = self._means(state, epoch, step)
                self._progress.show(label, {name: v for name, v in means.items() if "/" not in name})
            elif dispatches % _DISPATCHES_AHEAD == 0:
                jax.block_until_ready(state.step)
            stopping = stop_requested()
            if step == self._steps:
                continue  # the end of a pass is judged, and an epoch saved with its evaluation
            every, before = plan.checkpoint_steps, self._passes * self._steps
            if stopping or (every and (before + step) // every > (before + previous) // every):
                host = jax.device_get(state)
                if not plan.tuner.rejects:  # a tuner that can, judges for itself
                    refuse_if_not_finite(host, epoch * self._steps + step)
                self._save(host, None, before + step, start=start)
            if stopping:
                self._stop_if(stop_requested, f"in epoch {epoch + 1}", before + step)
        return state

    def _end_pass(
        self, state: TrainState, start: Start, epoch: int
    ) -> tuple[TrainState, Verdict, dict[str, Any]]:
        """The state to go on with, what the tuner says of the pass, and its row of ``passes.csv``."""
        plan, tuner = self._plan, self._plan.tuner
        rates = tuner.rates(self._tuning, epoch)
        variations, finite = jax.device_get(measure_pass(tuner.blocks)(start, state))
        outcome = Pass(epoch, variations, bool(finite))
        if not (outcome.finite or tuner.rejects):
            refuse_if_not_finite(jax.device_get(state), epoch * self._steps + self._steps)
        self._tuning, verdict = tuner.judge(self._tuning, outcome)
        self._passes += 1
        row = pass_row(epoch, self._passes * self._steps, verdict, rates, tuner.blocks, outcome)
        with self._replicas.together():
            self._directory.add_pass(row)
            if tuner.rejects:
                weights = state.variables if plan.keep_trials else None
                self._trials.add(self._passes - 1, Trial(verdict.accepted, self._tuning, row), weights)
        if tuner.rejects:
            self._progress.line(self._name + trial_line(epoch, plan.epochs, verdict))
        if not verdict.accepted:
            self._progress.expect(self._steps * plan.batch_size)
            position = self._replicas.replicate(np.asarray(epoch * self._steps, np.int32))
            state = state.replace(params=start.params, batch_stats=start.batch_stats, step=position)
        return state, verdict, row

    def _end_epoch(self, state: TrainState, epoch: int, passed: Mapping[str, Any], began: float) -> None:
        plan = self._plan
        host = jax.device_get(state)
        means = self._means(host, epoch, self._steps)
        measured = plan.evaluate(state)
        # Without a score the latest epoch counts as the best.
        score: float | None = measured[plan.score] if plan.score else float(epoch)
        if score is None or not math.isfinite(score):
            score = None
        elif score > self._best_score:
            self._best_score, self._best_epoch = score, epoch
        number = self._passes * self._steps
        row = {
            "epoch": epoch + 1,
            "step": number,
            **{f"train_{name}": value for name, value in means.items()},
            **measured,
            "learning_rate": max(rate for name, rate in passed.items() if name.startswith(RATES_OF_NETWORK)),
            "sorting_quality": passed["sorting_quality"],
            "trials": passed["trial"],
            "seconds": round(time.monotonic() - began, 3),
        }
        with self._replicas.together():
            per_part = {name: value for name, value in passed.items() if "/" in name}
            self._directory.add_scalars(per_part, epoch + 1)
            self._directory.add_metrics(row)
        self._save(host, score, number)
        told = f"epoch {epoch + 1}/{plan.epochs}  {shown(row)}  {row['seconds']:.1f} s"
        self._progress.line(self._name + told)
        if plan.after_epoch is not None:
            plan.after_epoch(row)

    def _means(self, state: TrainState, epoch: int, step: int) -> dict[str, float]:
        totals = {name: float(value) for name, value in jax.device_get(state.totals).items()}
        if not self._plan.tuner.rejects:
            check_finite("training loss is", totals["loss"], epoch * self._steps + step)
        examples = max(totals["examples"], 1.0)
        means = {"loss": totals["loss"] / examples}
        if "correct" in totals:
            means["accuracy"] = totals["correct"] / examples
        own = {name: total / examples for name, total in totals.items() if "/" in name}
        return {**means, **own}

    def _save(self, state: TrainState, score: float | None, number: int, start: Start | None = None) -> None:
        meta = {
            **self._plan.card,
            "best_score": None if self._best_epoch < 0 else self._best_score,
            "best_epoch": self._best_epoch,
        }
        more = {"tuning": self._tuning} | ({} if start is None else {"start": start})
        with self._replicas.together():
            saving.save_state(self._saver, state, meta, score=score, number=number, more=more)

    def _stop_if(self, stop_requested: Stop, where: str, number: int) -> None:
        if stop_requested.came:
            raise Stopped(
                f"stopped {where} of {self._plan.epochs}, saved at step {number}; the same command goes on from there "
                f"({readable(self._directory.path.absolute())})",
                signum=stop_requested.signum,
            )


_copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
