"""Records of a sweep's trials."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from finetune_jax.studies.sweeps.search import Point, Search

# Attributes of a trial. Everything else about it are Optuna's own fields.
RUN, WORKER, BEAT = "run", "worker", "beat"
SCORES, DIVERGED, EQUAL = "scores", "diverged", "equal_to"
SETTINGS, DATA = "settings", "data_digest"

DONE = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclasses.dataclass(frozen=True)
class Taken:
    """A trial that this worker has taken.

    Attributes:
        number: in the study.
        point: what to try.
        run: name of its directory; the same after the trial was lost and taken again.
        trial: Optuna's handle of it.
        reported: epochs whose score the queue has been told.
    """

    number: int
    point: Point
    run: str
    trial: Trial = dataclasses.field(repr=False, compare=False)
    reported: set[int] = dataclasses.field(repr=False, compare=False, default_factory=set)


@dataclasses.dataclass(frozen=True)
class Record:
    """A trial that is done.

    Attributes:
        number: in the study.
        point: what was tried.
        state: ``complete``, ``pruned``, ``diverged``, or ``equal`` to another trial whose score it has.
        scores: validation score of each seed, the larger the better; empty unless complete.
        score: their mean; of a pruned trial the last one reported; None where there is none.
        steps: epochs reported, over all seeds.
        run: name of its directory; of an equal trial the other's.
        equal_to: number of the trial it is equal to.
        place: where it was trained.
    """

    number: int
    point: Point
    state: str
    scores: tuple[float, ...]
    score: float | None
    steps: int
    run: str
    equal_to: int | None
    place: str


def as_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON: lists for tuples."""
    return json.loads(json.dumps(content))


def draw(trial: Trial, search: Search) -> Point:
    """The point of a trial: what was put into the queue, else what the sampler suggests."""
    if search.kind == "tpe" and len(search.learning_rates) > 1:
        ends = min(search.learning_rates), max(search.learning_rates)
        rate = trial.suggest_float("learning_rate", *ends, log=True)
    else:
        rate = trial.suggest_categorical("learning_rate", search.grid_rates)
    return Point(
        rate,
        trial.suggest_categorical("momentum", search.momenta),
        trial.suggest_categorical("weight_decay", search.weight_decays),
    )


def point_of(trial: FrozenTrial) -> Point:
    """The settings of a trial of Optuna."""
    return Point(**{name: float(trial.params[name]) for name in Point._fields})


def record_of(trial: FrozenTrial) -> Record:
    """What became of a trial of Optuna."""
    attributes = trial.user_attrs
    state = trial.state.name.lower()
    if DIVERGED in attributes:
        state = "diverged"
    elif EQUAL in attributes:
        state = "equal"
    return Record(
        number=trial.number,
        point=point_of(trial),
        state=state,
        scores=tuple(attributes.get(SCORES, ())),
        score=None if state == "diverged" else trial.value,
        steps=len(trial.intermediate_values),
        run=attributes[RUN],
        equal_to=attributes.get(EQUAL),
        place=attributes[WORKER][0].split()[0],
    )
