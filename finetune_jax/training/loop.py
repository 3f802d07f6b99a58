"""The loop over epochs: rates, steps, evaluation, selection, checkpoints.

It knows no method and no network: what a step does comes in as a function, what is measured as another, and a
tuner decides the rates of every pass over the images and whether the pass counts. The weights that an epoch
starts from stay on the devices, so throwing a pass away costs no disk access.

:class:`Loop` asks for the steps of each pass instead of taking them, so that whoever takes them may do so for
several runs at once (``training.lockstep``).

Steps are counted in three ways:

=================  =========================================================================================
``step_in_epoch``  steps of the current pass over the images, from 0 to the steps per epoch
``state.step``     steps that led to the weights: those of the epochs before and of the current pass; random
                   numbers depend on it, so every pass of an epoch draws the same ones
``steps_trained``  all steps so far, those of rejected passes too: never falls, so it numbers the checkpoints
                   and is the column ``step`` of ``metrics.csv`` and ``passes.csv``
=================  =========================================================================================

They agree as long as no pass is rejected: ``state.step = steps_trained = epoch · steps_per_epoch + step_in_epoch``.
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
from finetune_jax.devices.compile_clock import CompileClock
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import Stopped, UserError, readable
from finetune_jax.files import checkpoints, working_copies
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.files.trials import Trial, Trials
from finetune_jax.training import saving
from finetune_jax.training.divergence import check_finite, measuring, refuse_if_not_finite
from finetune_jax.training.placement import Placement
from finetune_jax.training.plan import Plan, Start, Steps
from finetune_jax.training.progress import Progress
from finetune_jax.training.rows import RATES_OF_NETWORK, pass_row, shown, trial_line
from finetune_jax.training.state import TrainState
from finetune_jax.training.stopping import Stop, StopRequest
from finetune_jax.training.tuning import Pass, TunerState, Verdict

# How far the host runs ahead of the devices.
_DISPATCHES_AHEAD = 32
# What the making of programs takes at least for a line of its own.
_TOLD_SECONDS = 0.1


def fit(
    state: TrainState, train: Training, plan: Plan, replicas: Replicas, directory: RunDirectory
) -> list[dict[str, str]]:
    """Train, or go on with training, until the plan is fulfilled.

    Args:
        state: host arrays of the start; a checkpoint in the directory takes its place.
        train: the compiled step over an order; uses up its state.
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
        request = next(run)
        while True:
            for taken in train(request.state, request.order):
                request = run.send(taken)
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
            progress: shows every step.
            name: of the run, where progress is of several.
        """
        self._plan = plan
        self._replicas = replicas
        self._placement = Placement(replicas, plan.in_shares)
        self._measured: Any = None
        self._directory = directory
        self._steps_per_epoch = len(plan.order(0))
        self._tuning: TunerState = plan.tuner.initial()
        self._averages_at_start: Any = None  # of the pass, where it may be rejected
        self._passes = 0  # over the training images so far, rejected ones included
        with replicas.fail_together():
            self._saver = saving.open_saver(directory.checkpoints, self._placement, plan.keep_best)
            self._trials = Trials(directory.trials, writable=replicas.is_primary and plan.tuner.can_reject)
        self._best_score = -math.inf
        self._best_epoch = -1
        self._progress = progress
        self._name = f"{name}  " if name else ""
        self._clock = CompileClock()

    def __enter__(self) -> "Loop":
        self._clock.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._clock.__exit__(kind, *_)
        # Also after an error what was handed over for saving is still written, but the first error is the one
        # to tell. Stopped promises that all is saved; afterwards the other processes read it.
        if kind in (None, Stopped):
            with self._replicas.fail_together():
                self._close()
                working_copies.publish(self._directory.path)
            working_copies.refresh(self._directory.path)
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
            The :class:`Steps` to take, then None until they are all taken; each is answered by the state after
            some steps more, and how many these were.

        Raises:
            Diverged: the loss or a weight is not finite.
            UserError: a file cannot be written.
            Stopped: a stop was requested; the state is saved.
        """
        plan, steps = self._plan, self._steps_per_epoch
        with self._replicas.fail_together():
            state, start = self._resume(state)
        epoch, step_in_epoch = divmod(int(state.step), steps)
        self._progress.expect(((plan.epochs - epoch) * steps - step_in_epoch) * plan.batch_size)
        self._measured = measuring(plan.tuner, self._placement, state.params)
        state = self._placement.state(state)
        start = None if start is None else Start(**self._placement.variables(start._asdict()))
        while epoch < plan.epochs:
            if plan.patience and epoch - self._best_epoch > plan.patience:
                self._say(f"stopped early: no better {plan.score} for {plan.patience} epochs")
                break
            began = time.monotonic()
            self._clock.lap()
            while True:
                if start is None:
                    # In the middle of a pass only where none is needed.
                    state, start = self._begin_pass(state) if not step_in_epoch else (state, _NO_START)
                state = yield from self._take_steps(state, start, epoch, step_in_epoch, stop_requested)
                state, verdict, row = self._end_pass(state, start, epoch)
                start, step_in_epoch = None, 0
                if verdict.accepted:
                    break
                self._stop_if(stop_requested, f"in epoch {epoch + 1}", self._steps_trained())
            state = self._end_epoch(state, epoch, row, began)
            self._stop_if(stop_requested, f"after epoch {epoch + 1}", self._steps_trained())
            epoch += 1

    def _resume(self, state: TrainState) -> tuple[TrainState, Start | None]:
        """The state to go on with, and, in the middle of a pass, where that pass started."""
        folder = self._directory.checkpoints
        steps_trained = checkpoints.latest_step(folder)
        start = averages_at_start = None
        if steps_trained is not None:
            meta = checkpoints.read_meta(folder, steps_trained)
            if meta["best_score"] is not None:
                self._best_score, self._best_epoch = meta["best_score"], meta["best_epoch"]
            state = saving.restore_state(folder, steps_trained, state)
            like = Start(state.params, state.batch_stats)
            start = checkpoints.restore_item(folder, steps_trained, "start", like)
            if state.averages is not None:
                like_averages = state.averages
                averages_at_start = checkpoints.restore_item(
                    folder, steps_trained, "start_averages", like_averages
                )
                if averages_at_start is not None:
                    self._averages_at_start = self._placement.variables(averages_at_start)
            self._passes = steps_trained // self._steps_per_epoch
            if jax.tree.leaves(self._tuning):
                self._tuning = checkpoints.restore_item(folder, steps_trained, "tuning", self._tuning)
        self._directory.drop_rows_after(steps_trained or 0)
        # Passes that were thrown away since then need not be trained again.
        epoch = int(state.step) // self._steps_per_epoch
        while (trial := self._trials.read(self._passes, self._tuning)) is not None and not trial.accepted:
            if start is not None:
                state = state.replace(params=start.params, batch_stats=start.batch_stats)
                if averages_at_start is not None:
                    state = state.replace(averages=averages_at_start)
                start = None
            state = state.replace(step=np.asarray(epoch * self._steps_per_epoch, np.int32))
            self._tuning = trial.tuning
            self._passes += 1
            self._directory.add_pass(trial.row)
        return state, start

    def _begin_pass(self, state: TrainState) -> tuple[TrainState, Start]:
        tuner = self._plan.tuner
        is_needed = tuner.can_reject or tuner.blocks
        start = Start(*_copy((state.params, state.batch_stats))) if is_needed else _NO_START
        if tuner.can_reject and state.averages is not None:
            self._averages_at_start = _copy(state.averages)
        opt_state = optimizers.reset(state.opt_state) if tuner.can_reject or tuner.renews else state.opt_state
        zeros = {name: np.zeros((), np.float32) for name in state.totals}
        return state.replace(opt_state=opt_state, totals=self._replicas.replicate(zeros)), start

    def _take_steps(
        self, state: TrainState, start: Start, epoch: int, step_in_epoch: int, stop_requested: Stop
    ) -> Generator[Any, tuple[TrainState, int], TrainState]:
        """The steps of a pass from ``step_in_epoch`` on."""
        plan = self._plan
        rates = plan.tuner.rates(self._tuning, epoch)
        state = state.replace(opt_state=optimizers.set_learning_rates(state.opt_state, rates))
        if tables := plan.tables(epoch):
            state = state.replace(tables=self._replicas.replicate(tables))
        order = plan.order(epoch)
        label = f"{self._name}epoch {epoch + 1}/{plan.epochs}"
        dispatches = 0
        request: Steps | None = Steps(epoch, step_in_epoch, state, order[step_in_epoch:])
        while step_in_epoch < self._steps_per_epoch:
            self._progress.wait_for("compiling the training step")
            try:
                state, taken = yield request
            finally:
                self._progress.go_on()
            request = None
            step_in_epoch, dispatches = step_in_epoch + taken, dispatches + 1
            if self._progress.advance(taken * plan.batch_size):
                means = self._means(state, epoch, step_in_epoch)
                self._progress.show(label, {name: v for name, v in means.items() if "/" not in name})
            elif dispatches % _DISPATCHES_AHEAD == 0:
                jax.block_until_ready(state.step)
            stopping = stop_requested()
            if step_in_epoch == self._steps_per_epoch:
                continue  # the end of a pass is judged, and an epoch saved with its evaluation
            every, steps_trained = plan.checkpoint_steps, self._steps_trained(step_in_epoch)
            if stopping or (every and steps_trained // every > (steps_trained - taken) // every):
                if not plan.tuner.can_reject:  # a tuner that can, judges for itself
                    refuse_if_not_finite(jax.device_get(state), epoch * self._steps_per_epoch + step_in_epoch)
                self._save(state, None, steps_trained, start=start)
            if stopping:
                self._stop_if(stop_requested, f"in epoch {epoch + 1}", steps_trained)
        return state

    def _end_pass(
        self, state: TrainState, start: Start, epoch: int
    ) -> tuple[TrainState, Verdict, dict[str, Any]]:
        """The state to go on with, what the tuner says of the pass, and its row of ``passes.csv``."""
        plan, tuner = self._plan, self._plan.tuner
        rates = tuner.rates(self._tuning, epoch)
        variations, finite = jax.device_get(self._measured(start, state))
        outcome = Pass(epoch, variations, bool(finite), plan.signal(state) if plan.signal else None)
        if not (outcome.finite or tuner.can_reject):
            refuse_if_not_finite(jax.device_get(state), epoch * self._steps_per_epoch + self._steps_per_epoch)
        self._tuning, verdict = tuner.judge(self._tuning, outcome)
        self._passes += 1
        row = pass_row(epoch, self._steps_trained(), verdict, rates, tuner.blocks, outcome)
        with self._replicas.fail_together():
            self._directory.add_pass(row)
            if tuner.can_reject:
                weights = state.variables if plan.keep_trials else None
                self._trials.add(self._passes - 1, Trial(verdict.accepted, self._tuning, row), weights)
        if tuner.can_reject:
            self._say(trial_line(epoch, plan.epochs, verdict))
        if not verdict.accepted:
            self._progress.expect(self._steps_per_epoch * plan.batch_size)
            position = self._replicas.replicate(np.asarray(epoch * self._steps_per_epoch, np.int32))
            state = state.replace(params=start.params, batch_stats=start.batch_stats, step=position)
            if state.averages is not None:
                state = state.replace(averages=self._averages_at_start)
        return state, verdict, row

    def _end_epoch(
        self, state: TrainState, epoch: int, passed: Mapping[str, Any], began: float
    ) -> TrainState:
        """Average, evaluate and save; the state to go on with."""
        plan = self._plan
        if plan.average is not None:
            state = plan.average(state, epoch)
        means = self._means(state, epoch, self._steps_per_epoch)
        measured = plan.evaluate(state)
        # Without a score the latest epoch counts as the best.
        score: float | None = measured[plan.score] if plan.score else float(epoch)
        if score is None or not math.isfinite(score):
            score = None
        elif score > self._best_score:
            self._best_score, self._best_epoch = score, epoch
        steps_trained = self._steps_trained()
        row = {
            "epoch": epoch + 1,
            "step": steps_trained,
            **{f"train_{name}": value for name, value in means.items()},
            **measured,
            "learning_rate": max(rate for name, rate in passed.items() if name.startswith(RATES_OF_NETWORK)),
            "sorting_quality": passed["sorting_quality"],
            "trials": passed["trial"],
            "seconds": round(time.monotonic() - began, 3),
        }
        with self._replicas.fail_together():
            per_part = {name: value for name, value in passed.items() if "/" in name}
            self._directory.add_scalars(per_part, epoch + 1)
            self._directory.add_metrics(row)
        self._save(state, score, steps_trained)
        compiling = self._clock.lap()
        compiled = compiling >= _TOLD_SECONDS
        alone = max(row["seconds"] - compiling * compiled, 0.0)
        line = f"epoch {epoch + 1}/{plan.epochs}  {shown(row)}  {alone:.1f} s"
        self._say(*([f"compiling took {compiling:.1f} s"] if compiled else []), line)
        if plan.after_epoch is not None:
            plan.after_epoch(row)
        return state

    def _say(self, *lines: str) -> None:
        # All at once: processes, which time differently, may have other numbers of them.
        for line in lines:
            self._progress.line(self._name + line)
        with self._replicas.fail_together():
            self._directory.note("\n".join(lines))

    def _steps_trained(self, step_in_epoch: int = 0) -> int:
        return self._passes * self._steps_per_epoch + step_in_epoch

    def _means(self, state: TrainState, epoch: int, step_in_epoch: int) -> dict[str, float]:
        totals = {name: float(value) for name, value in jax.device_get(state.totals).items()}
        if not self._plan.tuner.can_reject:
            check_finite("training loss is", totals["loss"], epoch * self._steps_per_epoch + step_in_epoch)
        examples = max(totals["examples"], 1.0)
        means = {"loss": totals["loss"] / examples}
        if "correct" in totals:
            means["accuracy"] = totals["correct"] / examples
        of_method = {name: total / examples for name, total in totals.items() if "/" in name}
        return {**means, **of_method}

    def _save(
        self, state: TrainState, score: float | None, steps_trained: int, start: Start | None = None
    ) -> None:
        meta = {
            **self._plan.card,
            **saving.card_of_shares(self._placement),
            "best_score": None if self._best_epoch < 0 else self._best_score,
            "best_epoch": self._best_epoch,
        }
        more = {"tuning": self._tuning} | ({} if start is None else {"start": start})
        if start is not None and self._averages_at_start is not None:
            more["start_averages"] = self._averages_at_start
        placement = self._placement
        axes = {
            name: placement.start_axes(tree) if name.startswith("start") else None
            for name, tree in more.items()
        }
        more = placement.across_processes(more, axes)
        state = placement.across_processes(state, placement.axes(state))
        with self._replicas.fail_together():
            saving.save_state(self._saver, state, meta, score=score, steps_trained=steps_trained, more=more)

    def _stop_if(self, stop_requested: Stop, where: str, steps_trained: int) -> None:
        if stop_requested.came:
            raise Stopped(
                f"stopped {where} of {self._plan.epochs}, saved at step {steps_trained}; "
                f"the same command goes on from there ({readable(self._directory.path.absolute())})",
                signum=stop_requested.signum,
            )


_NO_START = Start({}, {})
"""Of passes that nothing compares with their start; no second copy of the weights then."""

_copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
