"""A sweep of learning rate, momentum and weight decay: which point has the best validation score.

Any number of workers pull points from one queue. A point is trained with each seed in turn, every run in a
directory of its own, so that a run that was interrupted goes on from its checkpoint, whoever takes it next.

This module knows no files and no Optuna: it is handed a queue and a function that trains.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune_jax.config import fit_task
from finetune_jax.config.settings import LOCAL_SETTINGS, FinetuneConfig
from finetune_jax.errors import Diverged, Pruned, UserError
from finetune_jax.reports.tables import score_text, spoken
from finetune_jax.studies.progress import Progress
from finetune_jax.studies.sweeps.records import Record, Taken
from finetune_jax.studies.sweeps.search import Point, Search
from finetune_jax.studies.sweeps.trial_queue import TrialQueue

if TYPE_CHECKING:
    from finetune_jax.studies.runs import Runs

SET_BY_THE_STUDY = ("learning_rate", "momentum", "weight_decay", "seed")
"""Settings of every run that come from the sweep."""


class Job(NamedTuple):
    """A run to train.

    Attributes:
        config: of the run, but for its directory.
        name: of its directory.
        after_epoch: called with the row of each epoch; raises ``Pruned`` to end the run.
    """

    config: FinetuneConfig
    name: str
    after_epoch: Callable[[Mapping[str, Any]], None]


Outcome = Mapping[str, Any] | Diverged | Pruned
"""The summary of a run, or why it has none."""

Train = Callable[[Sequence[Job]], Sequence[Outcome]]
"""Trains several runs of the same data, network and seed; one outcome per job."""


def one_by_one(runs: "Runs") -> Train:
    """The jobs one after the other."""

    def train(jobs: Sequence[Job]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for job in jobs:
            try:
                outcomes.append(runs(job.config, job.name, job.after_epoch))
            except (Diverged, Pruned) as ended:
                outcomes.append(ended)
        return outcomes

    return train


def together(runs: "Runs") -> Train:
    """The jobs in one program."""

    def train(jobs: Sequence[Job]) -> list[Outcome]:
        configs, names, callbacks = zip(*jobs, strict=True)
        return runs.together(configs, names, callbacks)

    return train


def settings(base: FinetuneConfig, search: Search, seeds: Sequence[int]) -> dict[str, Any]:
    """What all workers of a study must agree on, by the names of their flags; JSON."""
    shared = {
        name: value
        for name, value in dataclasses.asdict(base).items()
        if name not in LOCAL_SETTINGS and name not in SET_BY_THE_STUDY
    }
    of_the_search = {
        "search": search.kind,
        "learning_rates": search.learning_rates,
        "effective_learning_rates": search.effective_learning_rates,
        "momenta": search.momenta,
        "weight_decays": search.weight_decays,
        "dedup": search.dedup,
        "pruner": search.pruner,
        "search_seed": search.seed,
        "seeds": tuple(seeds),
    }
    return {**shared, **of_the_search}


def run(
    base: FinetuneConfig,
    search: Search,
    seeds: Sequence[int],
    queue: TrialQueue,
    train: Train,
    *,
    at_once: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> list[Record]:
    """Take trials and train them, until none is left here or with another worker.

    Args:
        base: what all runs share.
        search: what is tried.
        seeds: each point is trained with each of them; its score is the mean.
        queue: of the trials.
        train: trains jobs.
        at_once: how many trials to take, and jobs to hand over, at once.
        say: called with a line of text about what happens.

    Returns:
        All trials that are done.

    Raises:
        UserError: a run cannot be trained, or the storage not be used. The trials taken are given back.
    """
    waiting = False
    progress = Progress()
    progress.expect(queue.total)
    for record in queue.records():
        progress.begin(point_label(record.point))
        if record.state == "complete" and record.score is not None:
            progress.scored(point_label(record.point), record.score)
    with queue:
        while True:
            taken = queue.take(at_once)
            if taken:
                waiting = False
                began = time.monotonic()
                _train(taken, base, seeds, queue, train, say, progress)
                progress.trained((time.monotonic() - began) / len(taken), runs=len(taken))
            elif queue.done:
                return queue.records()
            else:
                if not waiting:
                    say("the other trials are with other workers; waiting for them")
                waiting = True
                queue.wait()


def configured(base: FinetuneConfig, point: Point, seed: int) -> FinetuneConfig:
    """The config of one run."""
    return dataclasses.replace(base, **point._asdict(), seed=seed)


def run_name(trial: str, seed: int, seeds: Sequence[int]) -> str:
    """Of a run's directory: the trial's own where there is one seed."""
    return trial if len(seeds) == 1 else f"{trial}/seed{seed}"


def point_label(point: Point) -> str:
    """What people call a point: ``rate 0.01, momentum 0.9, decay 0.0005``."""
    return f"rate {point.learning_rate:.4g}, momentum {point.momentum:.4g}, decay {point.weight_decay:.4g}"


def metric(base: FinetuneConfig) -> str:
    """Name of the number that decides; a task that only the labels tell is taken for classification."""
    task = fit_task.task_of(base)
    return (
        f"validation_{base.retrieval_score if task == 'retrieval' else fit_task.SCORES.get(task, 'accuracy')}"
    )


def _train(
    taken: Sequence[Taken],
    base: FinetuneConfig,
    seeds: Sequence[int],
    queue: TrialQueue,
    train: Train,
    say: Callable[[str], None],
    progress: Progress,
) -> None:
    scores: dict[int, list[float]] = {trial.number: [] for trial in taken}
    going = list(taken)
    for trial in taken:
        progress.begin(point_label(trial.point))
        say(progress.line())

    def job(trial: Taken, seed: int) -> Job:
        before = tuple(scores[trial.number])

        def after_epoch(row: Mapping[str, Any]) -> None:
            score, epoch = row.get(metric(base)), int(row["epoch"])
            if score in (None, ""):
                return
            # Of several seeds: the mean of what those before have come to and of this one so far.
            reported = statistics.fmean([*before, float(score)])
            step = len(before) * base.epochs + epoch
            worse = math.isfinite(reported) and queue.report(trial, step, reported)
            if worse and epoch < base.epochs:
                raise Pruned(f"trial {trial.run} ends after epoch {epoch}: others were better by then")

        return Job(configured(base, trial.point, seed), run_name(trial.run, seed, seeds), after_epoch)

    for seed in seeds:
        outcomes = train([job(trial, seed) for trial in going])
        for trial, outcome in zip(list(going), outcomes, strict=True):
            if not isinstance(outcome, Exception):
                scores[trial.number].append(_score(outcome, base))
                continue
            going.remove(trial)
            say(str(outcome))
            if isinstance(outcome, Pruned):
                queue.prune(trial)
            else:
                queue.diverged(trial, str(outcome))
    for trial in going:
        queue.finish(trial, scores[trial.number])
        score = statistics.fmean(scores[trial.number])
        progress.scored(point_label(trial.point), score)
        say(f"{point_label(trial.point)}: {spoken(metric(base))} {score_text(metric(base), score)}")


def _score(summary: Mapping[str, Any], base: FinetuneConfig) -> float:
    score = summary.get(metric(base))
    if score is None:
        raise UserError(
            "there are no validation images to choose on; give --validation_fraction, or a data set that has some"
        )
    return float(score)


def result(
    base: FinetuneConfig,
    search: Search,
    seeds: Sequence[int],
    records: Sequence[Record],
    summary_of: Callable[[str], Mapping[str, Any] | None],
) -> dict[str, Any]:
    """The result of a sweep.

    Only here, and only of the best point, is the score on the test images looked at.

    Args:
        base: what all runs share.
        search: what was tried.
        seeds: of every point.
        records: trials that are done.
        summary_of: name of a run to its summary, None where it does not lie here.

    Returns:
        JSON: ``trials``, one per point, those equal to another included; ``trained``, how many have been;
        ``best`` with ``run``, the best seed's directory, and ``test``, a score per seed (None where the runs lie
        elsewhere); ``best`` is None where every trial diverged or was pruned.
    """
    trials: list[dict[str, Any]] = sorted((_row(record) for record in records), key=_position)
    trials += _equal_rows(search, trials)
    complete = [trial for trial in trials if trial["state"] == "complete"]
    best: dict[str, Any] | None = None
    if complete:
        # Of equals the first in the order of the grid, whichever of them was trained first, or again after a kill.
        first = min(complete, key=lambda trial: (-float(trial["score"]), _position(trial)))
        best = dict(first)
        names = [run_name(best["directory"], seed, seeds) for seed in seeds]
        best["runs"] = names
        best["run"] = names[max(range(len(seeds)), key=best["scores"].__getitem__)]
        summaries = [summary_of(name) for name in names]
        best["test"] = None
        if all(summary is not None for summary in summaries):
            test = metric(base).replace("validation", "test")
            known = [summary for summary in summaries if summary is not None]
            best["test"] = [float(summary[test]) for summary in known]
            best["test_images"] = known[0].get("images", {}).get("test")
    return {
        "dataset": base.dataset,
        "method": base.method,
        "search": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(search).items()
        },
        "seeds": list(seeds),
        "score": metric(base),
        "trials": trials,
        "trained": sum(trial["state"] != "equal" for trial in trials),
        "best": best,
    }


def _position(trial: Mapping[str, Any]) -> tuple[int, int]:
    """Of a trial in the grid, or in the order in which a sampler drew it: a trial that is lost and taken again gets
    another number, but keeps the name of its directory."""
    return int(trial["directory"].partition("-")[0]), trial["number"]


def _row(record: Record) -> dict[str, Any]:
    return {
        "number": record.number,
        **_values(record.point),
        "state": record.state,
        "score": record.score,
        "scores": list(record.scores),
        "epochs": record.steps,
        "directory": record.run,
        "equal_to": record.equal_to,
        "place": record.place,
    }


def _equal_rows(search: Search, trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the points of a grid that were not trained, with the score of the one that was."""
    if search.kind != "grid":
        return []
    points = search.points()
    trained = {(trial["learning_rate"], trial["momentum"], trial["weight_decay"]): trial for trial in trials}
    rows = []
    for index, earlier in search.equals().items():
        other = trained.get(points[earlier])
        if other is not None:
            of_point = {"number": None, **_values(points[index]), "equal_to": other["number"]}
            rows.append({**other, **of_point, "state": "equal", "epochs": 0})
    return rows


def _values(point: Point) -> dict[str, float]:
    return {
        **point._asdict(),
        "effective_learning_rate": point.effective_learning_rate,
        "effective_weight_decay": point.effective_weight_decay,
    }
