"""Several runs in lockstep: one program takes the same step of all of them.

The runs differ in what their states hold: rates, momentum, weight decay, and what follows from these. They see
the same batches and draw the same random numbers, so what none of them trains (frozen parts, and whatever is
computed from these and the images alone) exists once. Between the steps each run is an ordinary
:class:`training.loop.Loop` with a directory of its own.
"""

import contextlib
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.data.batch import Batch
from finetune_jax.data.feeds import Feed
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.errors import Diverged, Pruned, Stopped
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.training.loop import Loop
from finetune_jax.training.plan import Plan, Steps
from finetune_jax.training.progress import Progress
from finetune_jax.training.state import TrainState
from finetune_jax.training.step import Objective
from finetune_jax.training.stopping import StopRequest


class Member(NamedTuple):
    """One of the runs.

    Attributes:
        state: host arrays of the start; a checkpoint in the directory takes its place.
        plan: what to do.
        directory: of the run.
    """

    state: TrainState
    plan: Plan
    directory: RunDirectory


class Lanes:
    """A compiled step of several runs, each in its lane; a lane may be idle."""

    def __init__(
        self,
        count: int,
        step: Callable[[TrainState, Batch], TrainState],
        changing: Sequence[str],
        feed: Feed,
        replicas: Replicas,
    ) -> None:
        """Prepare the programs; each is compiled at its first use.

        Args:
            count: number of lanes.
            step: of one run and one replica.
            changing: parts whose batch statistics a step changes, see :func:`changing_statistics`.
            feed: of the training images.
            replicas: where.
        """
        self._count = count
        self._changing = tuple(changing)
        self._train = feed.compile_training(lambda state, batch: self._step(step, state, batch))
        self._join = replicas.map_replicated(self._joined)
        self._part = replicas.map_replicated(self._parted)

    def train(
        self, states: Mapping[int, TrainState], order: np.ndarray
    ) -> Iterator[tuple[dict[int, TrainState], int]]:
        """Take steps with some of the runs.

        Args:
            states: ``{lane: state}`` of runs at the same step, on the devices.
            order: int ``[steps, B]``, the batches.

        Yields:
            The states after each dispatch, valid until the next one, and the number of steps it took.
        """
        lanes, first = tuple(states), next(iter(states.values()))
        # An idle lane computes what nobody looks at: another number of lanes would be another program.
        per_run = [self._per_run(states.get(lane, first)) for lane in range(self._count)]
        common = self._with_per_run(first, self._per_run(jax.tree.map(lambda _: None, first)))
        start = self._with_per_run(*self._join(common, per_run))
        del states, first, per_run, common  # memory of the devices
        for joined, taken in self._train(start, order):
            parts = self._part(self._per_run(joined))
            yield {lane: self._with_per_run(joined, parts[lane]) for lane in lanes}, taken

    def _step(
        self, step: Callable[[TrainState, Batch], TrainState], state: TrainState, batch: Batch
    ) -> TrainState:
        statistics = {name: 0 if name in self._changing else None for name in state.batch_stats}
        # Axes in place of the arrays.
        shared: dict[str, Any] = {"step": None, "key": None, "frozen": None}
        per_run: dict[str, Any] = {"params": 0, "opt_state": 0, "totals": 0, "batch_stats": statistics}
        per_run |= {name: None if getattr(state, name) is None else 0 for name in ("averages", "tables")}
        axes = TrainState(**shared, **per_run)
        return jax.vmap(step, in_axes=(axes, None), out_axes=axes)(state, batch)

    @staticmethod
    def _joined(common: TrainState, per_run: Sequence[dict[str, Any]]) -> tuple[TrainState, dict[str, Any]]:
        # Copied, for the steps use up what they are given, and other runs may still need it.
        return jax.tree.map(jnp.copy, common), jax.tree.map(lambda *leaves: jnp.stack(leaves), *per_run)

    def _parted(self, per_run: dict[str, Any]) -> list[dict[str, Any]]:
        def part(lane: int) -> dict[str, Any]:
            return jax.tree.map(lambda leaf: leaf[lane], per_run)

        return [part(lane) for lane in range(self._count)]

    def _per_run(self, state: TrainState) -> dict[str, Any]:
        """What each run has of its own, as fields of the state."""
        return {
            "params": state.params,
            "opt_state": state.opt_state,
            "totals": state.totals,
            "averages": state.averages,
            "tables": state.tables,
            "batch_stats": {name: state.batch_stats[name] for name in self._changing},
        }

    @staticmethod
    def _with_per_run(state: TrainState, per_run: Mapping[str, Any]) -> TrainState:
        return state.replace(**{**per_run, "batch_stats": {**state.batch_stats, **per_run["batch_stats"]}})


def changing_statistics(objective: Objective, state: TrainState, batch: Batch) -> tuple[str, ...]:
    """Parts whose batch statistics a step with this objective changes; nothing is computed.

    Args:
        objective: of one replica.
        state: any state of the run.
        batch: arrays, or their shapes.
    """

    def outcome(state: TrainState, batch: Batch) -> Any:
        key = jax.random.wrap_key_data(state.key)
        return objective(state.params, state.frozen, state.batch_stats, batch, key)[1].batch_stats

    # Collectives in it need the axis of the replicas.
    mapped = jax.vmap(outcome, in_axes=None, axis_name=AXIS, axis_size=1)
    return tuple(jax.eval_shape(mapped, state, batch))


def fit(members: Sequence[Member], lanes: Lanes, replicas: Replicas) -> list[Diverged | Pruned | None]:
    """Train all runs, or go on with training, until their plans are fulfilled.

    The runs that are furthest back go first, the others wait for them: so whatever a kill left of each run,
    they come together again.

    Args:
        members: the runs; one lane for each.
        lanes: the compiled step.
        replicas: where.

    Returns:
        For each run how it diverged or was pruned, None where it was not.

    Raises:
        UserError: a file cannot be written.
        Stopped: SIGTERM or Ctrl-C came; all states are saved.
    """
    with StopRequest(replicas) as stop_requested, contextlib.ExitStack() as loops:
        group = _Group(members, replicas, loops)
        group.go_on(dict.fromkeys(range(len(members))))
        while group.requests:
            for states, taken in lanes.train(*group.furthest_back()):
                # Asked once, or some runs would go on and others not.
                group.stop.came = stop_requested()
                group.stop.signum = stop_requested.signum
                group.go_on({lane: (state, taken) for lane, state in states.items()})
    return group.endings


class _Stop:
    """The last answer of a stop request, the same for all runs."""

    came = False
    signum: int = signal.SIGTERM

    def __call__(self) -> bool:
        return self.came


class _Group:
    """The loops of the runs.

    Attributes:
        stop: the answer that they all get.
        requests: ``{lane: steps}`` that they ask for.
        endings: of each run, how it diverged or was pruned.
    """

    def __init__(self, members: Sequence[Member], replicas: Replicas, loops: contextlib.ExitStack) -> None:
        """Open them; ``loops`` closes them."""
        self.stop = _Stop()
        self.requests: dict[int, Steps] = {}
        self.endings: list[Diverged | Pruned | None] = [None] * len(members)
        self._names = [member.directory.path.name for member in members]
        self._progress = Progress(0, silent=not replicas.is_primary)
        # A generator that has not begun takes None.
        self._runs: dict[int, Generator[Any, Any, None]] = {}
        for lane, (state, plan, directory) in enumerate(members):
            loop = Loop(plan, replicas, directory, self._progress, self._names[lane])
            self._runs[lane] = loops.enter_context(loop).run(state, self.stop)

    def furthest_back(self) -> tuple[dict[int, TrainState], np.ndarray]:
        """Take out the requests for the earliest steps: states by lane, and the common order."""
        position = min((steps.epoch, steps.step_in_epoch) for steps in self.requests.values())
        chosen = [
            lane for lane, steps in self.requests.items() if (steps.epoch, steps.step_in_epoch) == position
        ]
        order = self.requests[chosen[0]].order
        return {lane: self.requests.pop(lane).state for lane in chosen}, order

    def go_on(self, answers: Mapping[int, tuple[TrainState, int] | None]) -> None:
        """Hand runs what became of the steps they asked for; None starts a run.

        Raises:
            UserError: a file cannot be written.
            Stopped: a stop was requested; their states are saved.
        """
        stopped = None
        for lane, answer in answers.items():
            if lane not in self._runs:
                continue  # diverged or pruned since the pass began
            try:
                steps = self._runs[lane].send(answer)
            except StopIteration:
                del self._runs[lane]
            except (Diverged, Pruned) as error:
                del self._runs[lane]
                self.endings[lane] = error
                self._progress.line(f"{self._names[lane]}  {error}")
            except Stopped as error:
                stopped = error
            else:
                if steps is not None:
                    self.requests[lane] = steps
        if stopped is not None:
            raise stopped
