"""Rehearsals: short trainings from the start of a run, measured on training images that they left out, and thrown away.

Nothing of the run depends on them but what is concluded: its state, its random numbers and the order of its images are
those of a run without rehearsals. They use the compiled step of the run, so rates are all that they can vary.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from finetune_jax.algorithms import optimizers
from finetune_jax.data.feeds import Axes, Feed, Step, Training
from finetune_jax.devices.replicas import Replicas
from finetune_jax.training.divergence import measure_pass
from finetune_jax.training.plan import Plan, Start
from finetune_jax.training.state import TrainState

Rates = Mapping[str, float]
"""``{part: learning rate}``."""

HELD_OUT_SHARE, MOST_HELD_OUT = 0.25, 512
"""Training images that rehearsals leave out: this share, and at most so many."""

_HELD_OUT_STREAM = 2**63  # beside the epochs, which key the orders of training


class Rehearsed(NamedTuple):
    """What a rehearsal came to.

    Attributes:
        rates: ``{part: rate}`` at its peak.
        steps: that it took.
        loss: mean of the held-out images after the last step; infinite where it is not finite.
        losses: of the single images, ``[N]``; empty where it is not finite.
    """

    rates: Rates
    steps: int
    loss: float
    losses: np.ndarray = np.zeros(0, np.float32)


@dataclasses.dataclass(eq=False)
class Cost:
    """What rehearsals have taken so far.

    Attributes:
        images_trained: images that went forward and backward.
        images_judged: images that went forward alone.
    """

    images_trained: int = 0
    images_judged: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Rehearsals:
    """Short trainings from one start.

    Attributes:
        state: host arrays of the start of the run.
        training: the compiled step of the run.
        loss: of a state on the devices to the losses of the held-out images, ``[N]``, or their mean alone.
        plan: of the run; its images in their order, held-out ones left out, are trained on.
        replicas: where.
        held_out: indices of the held-out images, see :func:`held_out`.
        say: called with a line of text for each rehearsal.
        cost: of the rehearsals so far.
        log: the rehearsals so far.
        from_probe: gives rehearsals of the same run from a linear probe (``--from_probe``), with the same log and cost;
            None where it cannot start from one.
    """

    state: TrainState
    training: Training
    loss: Callable[[TrainState], np.ndarray | float]
    plan: Plan
    replicas: Replicas
    held_out: np.ndarray
    say: Callable[[str], None] = lambda line: None
    cost: Cost = dataclasses.field(default_factory=Cost)
    log: list[Rehearsed] = dataclasses.field(default_factory=list)
    from_probe: "Callable[[], Rehearsals] | None" = None

    @property
    def steps_of_run(self) -> int:
        """Steps of the whole run, without rehearsals."""
        return self.plan.epochs * len(self.plan.order(0))

    def run(self, rates: Rates, steps: int) -> Rehearsed:
        """The run in small: so many steps, the rates falling with the cosine to zero.

        Args:
            rates: at the first step.
            steps: at least 1.
        """
        state = self.begin()
        for number, row in enumerate(self._rows(int(self.state.step), steps)):
            factor = 0.5 * (1 + math.cos(math.pi * number / steps))
            state = self.step(state, {name: rate * factor for name, rate in rates.items()}, row)
        losses = np.zeros(0, np.float32)
        _, finite = measure_pass(())(Start(state.params, state.batch_stats), state)
        if finite:
            losses = np.atleast_1d(self.loss(state))
            self.cost.images_judged += len(self.held_out)
        loss = float(losses.mean(dtype=np.float64)) if losses.size else math.inf
        if not math.isfinite(loss):
            loss, losses = math.inf, losses[:0]
        self.log.append(Rehearsed(rates, steps, loss, losses))
        peak = min(rates.values())
        self.say(f"trial {len(self.log)}: {steps} steps, lowest rate {peak:g}, loss {loss:.4f}")
        return self.log[-1]

    def judge(self) -> float:
        """Mean loss of the held-out images at the start; infinite where it is not finite."""
        self.cost.images_judged += len(self.held_out)
        loss = float(np.mean(self.loss(self.begin()), dtype=np.float64))
        return loss if math.isfinite(loss) else math.inf

    def after(self, rates: Rates, steps: int) -> "Rehearsals":
        """Rehearsals from a later start, with the same log and cost.

        Args:
            rates: of all steps up to there.
            steps: how many there are.
        """
        state = self.begin()
        for row in self._rows(int(self.state.step), steps):
            state = self.step(state, rates, row)
        return dataclasses.replace(self, state=jax.device_get(state.replace(tables=self.state.tables)))

    def losses(self, rates: list[Rates], worst: Callable[[list[float]], bool]) -> list[float]:
        """Training loss of the batch of each step, before the step, at rates that differ from step to step.

        Args:
            rates: of each step.
            worst: of the losses so far; whether to stop there.

        Returns:
            Of the steps that were taken.
        """
        state, losses, before = self.begin(), list[float](), 0.0
        for of_step, row in zip(rates, self._rows(int(self.state.step), len(rates)), strict=True):
            state = self.step(state, of_step, row)
            total = float(jax.device_get(state.totals["loss"]))
            losses.append((total - before) / self.plan.batch_size)
            before = total
            if not math.isfinite(total) or worst(losses):
                break
        return losses

    def begin(self) -> TrainState:
        """The start of the run, on the devices; steps use it up."""
        state = self.replicas.replicate(self.state)
        tables = dict(self.plan.tables(0))
        if "rate_factors" in tables:  # the table must be there, or the step would be another program
            tables["rate_factors"] = jax.tree.map(np.ones_like, tables["rate_factors"])
        return state.replace(tables=self.replicas.replicate(tables)) if tables else state

    def step(self, state: TrainState, rates: Rates, row: np.ndarray) -> TrainState:
        """The state after one step, which uses it up.

        Args:
            state: of :meth:`begin` or the step before.
            rates: of this step.
            row: indices of its images, ``[B]``.
        """
        state = state.replace(opt_state=optimizers.set_learning_rates(state.opt_state, rates))
        for after, _ in self.training(state, row[None]):
            state = after
        self.cost.images_trained += row.size
        return state

    def _rows(self, first: int, steps: int) -> np.ndarray:
        """Batches of the run's own order without the held-out images, from the step ``first`` on, ``[steps, B]``."""
        width = self.plan.order(0).shape[1]
        end, chosen, epoch = (first + steps) * width, list[np.ndarray](), 0
        while sum(map(len, chosen)) < end:
            order = self.plan.order(epoch).ravel()
            chosen.append(order[~np.isin(order, self.held_out)])
            epoch += 1
        return np.concatenate(chosen)[first * width : end].reshape(steps, width)


def held_out(count: int, seed: int) -> np.ndarray:
    """Indices of the training images that rehearsals are measured on, ascending.

    Args:
        count: of the training images, at least 2.
        seed: of the run.
    """
    share = max(1, min(MOST_HELD_OUT, int(count * HELD_OUT_SHARE)))
    rng = np.random.Generator(np.random.Philox(key=[seed, _HELD_OUT_STREAM]))
    return np.sort(rng.permutation(count)[:share])


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """Some of the examples of a feed, for evaluation.

    Attributes:
        feed: of all of them.
        indices: which, ``[N]``.
    """

    feed: Feed
    indices: np.ndarray
    rows = None

    def batches(self, order: np.ndarray) -> Iterator[jax.Array]:
        """See ``Feed``; the order is of places in ``indices``."""
        return self.feed.batches(self.indices[order].astype(np.int32))

    def compile_training(self, step: Step, axes: Axes = lambda state: None) -> Training:
        """Not for training.

        Raises:
            TypeError: always.
        """
        raise TypeError("chosen examples are for evaluation")
