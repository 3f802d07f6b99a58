"""The trials of a sweep, pulled by any number of workers from one study that Optuna keeps.

A trial belongs to the worker that has taken it until the worker finishes it, gives it back, or is lost: its
process has ended, or it has given no sign of life for some minutes. Then another worker goes on with it.
Optuna's own heartbeat does this for databases only, and only within ``Study.optimize``.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from finetune_jax.config.recorded import completed
from finetune_jax.errors import DAMAGE, UserError, readable
from finetune_jax.files.workers import Worker
from finetune_jax.studies.sweeps.records import (
    BEAT,
    DATA,
    DIVERGED,
    DONE,
    EQUAL,
    RUN,
    SCORES,
    SETTINGS,
    WORKER,
    Record,
    Taken,
    as_json,
    draw,
    point_of,
    record_of,
)
from finetune_jax.studies.sweeps.search import Point, Search
from finetune_jax.studies.sweeps.storage import open_storage, reason, shown

HEARTBEAT_SECONDS = 30.0
"""How often a worker gives a sign of life."""
GRACE_SECONDS = 300.0
"""Without a sign for so long, as seen by another worker's clock, a worker is lost."""
POLL_SECONDS = 2.0
"""How often a worker without a trial looks whether there is one."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


class TrialQueue:
    """A worker's view of a study; use it in a ``with`` statement, which ends by giving back what was taken."""

    def __init__(
        self,
        storage: str,
        study: str,
        search: Search,
        settings: Mapping[str, Any],
        *,
        warmup: int = 0,
        heartbeat: float = HEARTBEAT_SECONDS,
        grace: float = GRACE_SECONDS,
    ) -> None:
        """Open a study, or begin it.

        Args:
            storage: path of a journal file, or URL of a database.
            study: its name in the storage.
            search: what to try.
            settings: JSON; all workers of a study, and later starts, must have the same.
            warmup: epochs in which no trial is pruned.
            heartbeat: seconds between signs of life.
            grace: seconds without one after which a worker is lost.

        Raises:
            UserError: the storage cannot be used, or holds a study with other settings.
        """
        self._search = search
        self._name = shown(storage)
        self._heartbeat, self._grace = heartbeat, grace
        self._me = Worker.here()
        equals = search.equals()
        self._grid = {
            f"{index:04d}-{point}": point
            for index, point in enumerate(search.points())
            if index not in equals
        }
        self._now = time.monotonic
        self._held: dict[int, Taken] = {}
        self._seen: dict[int, tuple[Any, float]] = {}
        self._data: str | None = None
        self._changes = threading.Lock()
        self._stop = threading.Event()
        self._beats = 0
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if search.pruner == "median":
            pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup)
        with self._explained():
            opened = open_storage(storage)
            arguments: dict[str, Any] = {"storage": opened, "study_name": study, "pruner": pruner}
            arguments["sampler"] = optuna.samplers.RandomSampler(seed=search.seed)
            with contextlib.suppress(DuplicatedStudyError):
                optuna.create_study(direction="maximize", **arguments)
            self._study = optuna.load_study(**arguments)
            self._agree(study, settings)

    def __enter__(self) -> "TrialQueue":
        self._pulse = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._pulse.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._pulse.join()
        for taken in list(self._held.values()):
            # The error that ends the work is the one to tell; a trial not given back is one of a lost worker.
            with contextlib.suppress(UserError):
                self.give_back(taken)

    def agree_on_data(self, digest: str) -> None:
        """Refuse to work with other images than the workers before, now and whenever trials are taken.

        Args:
            digest: of the data that this worker has.

        Raises:
            UserError: the storage cannot be used, or the workers have other images.
        """
        with self._explained():
            if DATA not in self._study.user_attrs:
                self._study.set_user_attr(DATA, digest)
            self._data = digest
            self._check_data()

    def _check_data(self) -> None:
        # Workers that begin at the same moment may both have found no digest: the first one to take trials after the
        # last one has written its own sees it.
        first = self._study.user_attrs[DATA] if self._data else None
        if first != self._data:
            raise UserError(
                f"{self._name} holds a study of other images: their digest is {str(first)[:12]}, here it is "
                f"{str(self._data)[:12]}; give all workers the same images, or begin another --study or --workdir"
            )

    def take(self, count: int) -> list[Taken]:
        """Up to ``count`` trials to train now; none where all are done or in the hands of other workers.

        Raises:
            UserError: the storage cannot be used, or another worker has other images.
        """
        taken: list[Taken] = []
        with self._explained():
            self._check_data()
            self._recover()
            if self._search.kind == "grid":
                self._fill()
            while len(taken) < count and self._has_more():
                trial = self._ask()
                if trial is not None:
                    taken.append(trial)
        return taken

    @property
    def done(self) -> bool:
        """Whether there is nothing to train any more, here or elsewhere."""
        with self._explained():
            finished = self._trials(*DONE)
        if self._search.kind == "grid":
            return {trial.user_attrs[RUN] for trial in finished} >= set(self._grid)
        return len(finished) >= self._search.trials

    @property
    def total(self) -> int:
        """How many trials are done in the end, by all workers."""
        return len(self._grid) if self._search.kind == "grid" else self._search.trials

    def wait(self) -> None:
        """Give the other workers some time."""
        time.sleep(POLL_SECONDS)

    def report(self, taken: Taken, step: int, score: float) -> bool:
        """Tell the score after ``step`` epochs; whether the trial should end here, pruned.

        It should also where the trial is another worker's by now, because this one had given no sign of life.
        """
        if step in taken.reported:
            return False
        taken.reported.add(step)
        with self._explained():
            try:
                taken.trial.report(score, step)
                return taken.trial.should_prune()
            except UpdateFinishedTrialError:
                self._forget(taken)
                return True

    def finish(self, taken: Taken, scores: Sequence[float]) -> None:
        """The trial is trained: its validation score with each seed."""
        self._tell(taken, TrialState.COMPLETE, float(np.mean(scores)), {SCORES: list(map(float, scores))})

    def prune(self, taken: Taken) -> None:
        """The trial has ended where :meth:`report` said so."""
        self._tell(taken, TrialState.PRUNED, None, {})

    def diverged(self, taken: Taken, text: str) -> None:
        """The trial has diverged: the sampler takes it for worse than any other."""
        self._tell(taken, TrialState.PRUNED, None, {DIVERGED: text})

    def give_back(self, taken: Taken) -> None:
        """Let this or another worker go on with the trial later."""
        self._forget(taken)
        with self._explained():
            self._release(taken.number)

    def records(self) -> list[Record]:
        """The trials that are done, by number."""
        with self._explained():
            records = [record_of(trial) for trial in self._trials(*DONE)]
        return sorted(records, key=lambda record: record.number)

    def _ask(self) -> Taken | None:
        """The next trial, in order of number; None where it need not be trained."""
        trial = self._study.ask()
        trial.set_user_attr(WORKER, list(self._me))
        run = trial.user_attrs.get(RUN)
        others = [other for other in self._trials() if other.number < trial.number]
        budget_spent = sum(other.state != TrialState.FAIL for other in others) >= self._search.trials
        if run is None and (self._search.kind == "grid" or budget_spent):
            self._end(trial.number, TrialState.FAIL)  # another worker took the last one at the same moment
            return None
        if run is not None and any(
            other.user_attrs.get(RUN) == run and other.state != TrialState.FAIL for other in others
        ):
            self._end(trial.number, TrialState.FAIL)  # two workers put it into the queue
            return None
        # Seeded by the number, a trial does not depend on which worker draws it, or whether that has been restarted.
        seed = int(np.random.SeedSequence([self._search.seed, trial.number]).generate_state(1)[0])
        if self._search.kind == "tpe":
            # The liar takes what other workers are trying for bad, so that they spread.
            self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        point = draw(trial, self._search)
        run = run or f"{trial.number:04d}-{point}"
        trial.set_user_attr(RUN, run)
        taken = Taken(trial.number, point, run, trial)
        if self._search.kind == "tpe" and (equal := self._equal(point, others)) is not None:
            notes = {EQUAL: equal.number, RUN: equal.user_attrs[RUN]}
            self._tell(taken, TrialState.COMPLETE, equal.value, notes)
            return None
        with self._changes:
            self._held[trial.number] = taken
        return taken

    def _equal(self, point: Point, others: list[FrozenTrial]) -> FrozenTrial | None:
        key = self._search.key(point)
        for other in others:
            trained = other.state == TrialState.COMPLETE and EQUAL not in other.user_attrs
            if trained and self._search.key(point_of(other)) == key:
                return other
        return None

    def _has_more(self) -> bool:
        if self._trials(TrialState.WAITING):
            return True
        if self._search.kind == "grid":
            return False
        return len(self._trials(TrialState.RUNNING, *DONE)) < self._search.trials

    def _fill(self) -> None:
        """Put points of the grid that no trial covers into the queue: all at first, later lost ones."""
        covered = {trial.user_attrs.get(RUN) for trial in self._trials() if trial.state != TrialState.FAIL}
        for run, point in self._grid.items():
            if run not in covered:
                self._study.enqueue_trial(point._asdict(), user_attrs={RUN: run})

    def _recover(self) -> None:
        """Take trials from lost workers and put them into the queue again."""
        now = self._now()
        for trial in self._trials(TrialState.RUNNING):
            if trial.number in self._held:
                continue
            attributes = trial.user_attrs
            beat, since = self._seen.get(trial.number, (None, now))
            if trial.number not in self._seen or beat != attributes.get(BEAT):
                since = now
            self._seen[trial.number] = attributes.get(BEAT), since
            worker = Worker(*attributes[WORKER]) if WORKER in attributes else None
            mine = worker == self._me  # from before an error of the storage
            if mine or (worker and worker.has_ended()) or now - since > self._grace:
                name = attributes.get(RUN, trial.number)
                print(f"trial {name} was lost with its worker; it is queued again", file=sys.stderr)
                self._release(trial.number)

    def _release(self, number: int) -> None:
        """End a trial without a result, and put its point into the queue again."""
        if not self._end(number, TrialState.FAIL):
            return
        trial = self._trial(number)
        # One that was lost before its directory had a name has not begun: the grid, or the sampler, makes another.
        if RUN in trial.user_attrs:
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            self._study.enqueue_trial(params, user_attrs={RUN: trial.user_attrs[RUN]})

    def _end(self, number: int, state: TrialState, value: float | None = None) -> bool:
        """False where another worker has ended the trial before."""
        try:
            self._study.tell(number, value, state=state)
        except (UpdateFinishedTrialError, ValueError):
            if self._trial(number).state.is_finished():
                return False
            raise
        return True

    def _tell(
        self, taken: Taken, state: TrialState, value: float | None, attributes: Mapping[str, Any]
    ) -> None:
        self._forget(taken)
        with self._explained():
            # A trial that became another worker's keeps what that one finds, which is the same.
            with contextlib.suppress(UpdateFinishedTrialError):
                for name, content in attributes.items():
                    taken.trial.set_user_attr(name, content)
            self._end(taken.number, state, value)

    def _forget(self, taken: Taken) -> None:
        with self._changes:
            self._held.pop(taken.number, None)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _trial(self, number: int) -> FrozenTrial:
        return next(trial for trial in self._trials() if trial.number == number)

    def _agree(self, study: str, settings: Mapping[str, Any]) -> None:
        if SETTINGS not in self._study.user_attrs:
            self._study.set_user_attr(SETTINGS, dict(settings))
        stored = completed(self._study.user_attrs[SETTINGS])
        settings = as_json(settings)
        differing = sorted(name for name in settings if stored.get(name) != settings.get(name))
        if differing:
            changes = ", ".join(
                f"--{name}={settings.get(name)} (was {stored.get(name)})" for name in differing
            )
            raise UserError(
                f"{self._name} holds a study {study!r} with other settings: {changes}; give the same flags to go on "
                "with it, or another --study or --workdir"
            )

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat):
            self._give_sign_of_life()

    def _give_sign_of_life(self) -> None:
        self._beats += 1
        with self._changes:
            held = list(self._held.values())
        for taken in held:
            # One missed sign does not matter; what is wrong comes to light where the result is told.
            with contextlib.suppress(Exception):
                taken.trial.set_user_attr(BEAT, self._beats)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (StorageInternalError, OSError) as error:
            raise UserError(
                f"{self._name} cannot be used: {reason(error)}; what is finished is kept in it and in the run "
                "directories; make it reachable and start again"
            ) from error
        except DAMAGE as error:
            raise UserError(
                f"{self._name} holds what no sweep has written ({type(error).__name__}: {readable(reason(error))}); it "
                "is damaged, or of another program: bring it back from a copy, or give another --storage"
            ) from error
