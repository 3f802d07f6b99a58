"""Which weights and which method for a data set, within a budget: probes of all, then successive halving of methods.

Everything that was measured or decided is in a record, a dict of JSON that is saved after each step: a study that was
stopped goes on with the same survivors, although it is the clock that decides.

This module knows no files: it is handed functions that probe, train and measure.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_jax.algorithms import halving
from finetune_jax.algorithms.halving import Judged, Rung, Trial
from finetune_jax.algorithms.uncertainty import mcnemar
from finetune_jax.config.recipes import changed
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import Diverged, Pruned, UserError
from finetune_jax.reports.recommend import images_of, in_full
from finetune_jax.runs.probing import flags_of
from finetune_jax.studies.progress import Progress
from finetune_jax.training.plan import AfterEpoch

Record = dict[str, Any]
_TIED = 0.05
_PROBING = 0.5  # share of the budget after which no further origin is probed


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A method on some weights.

    Attributes:
        name: for the table.
        config: of its whole training.
        command: that trains it.
    """

    name: str
    config: FinetuneConfig
    command: str


@dataclasses.dataclass(frozen=True)
class Work:
    """What a study is made of.

    Attributes:
        dataset: its name.
        origins: names of the weights to probe.
        must_fit: whether an origin that cannot be probed is a mistake.
        probe: from an origin to what ``runs.probing.judge`` says.
        curve: from an origin to the learning curve of its probe.
        contestants: of an origin and of the one that came second (empty for none), in the order of their trials.
        train: trains a config below a name, telling of each epoch, and returns its summary.
        measure: from the name of a run and its config to what ``runs.probing.measure`` says.
        save: keeps the record.
        budget: seconds.
        epochs: of a whole training.
        progress: is told of every run.
        clock: seconds.
    """

    dataset: str
    origins: Sequence[str]
    must_fit: bool
    probe: Callable[[str], Mapping[str, Any]]
    curve: Callable[[str], Mapping[str, Any]]
    contestants: Callable[[str, str], Sequence[Contestant]]
    train: Callable[[FinetuneConfig, str, AfterEpoch], Mapping[str, Any]]
    measure: Callable[[str, FinetuneConfig], Mapping[str, Any]]
    save: Callable[[Record], None]
    budget: float
    epochs: int
    progress: Progress = dataclasses.field(default_factory=Progress)
    clock: Callable[[], float] = time.monotonic


def run(work: Work, record: Record) -> dict[str, Any]:
    """Probe, try, decide; what the record has already is not done again.

    Args:
        work: the study.
        record: empty, or what an earlier start of it has saved.

    Returns:
        JSON: the record with ``dataset``, ``budget``, ``epochs``, ``contestants`` (``{name: command}``), ``tied``,
        ``best`` and ``recommended`` (names of contestants), and ``by_probes`` (whether nothing was trained).

    Raises:
        UserError: no origin or no method suits the data; says why.
    """
    record.setdefault("spent", 0.0)
    for name in ("probes", "seconds_of", "measured"):
        record.setdefault(name, {})
    record.setdefault("rungs", [])
    _probe_all(work, record)
    origin, second = chosen_origins(record["probes"])
    if "curve" not in record:
        with _spending(work, record, "curve"):
            record["curve"] = dict(work.curve(origin))
    contestants = {one.name: one for one in work.contestants(origin, second)}
    if not record["rungs"]:
        record["rungs"].append(_first_rung(work, record, list(contestants), origin))
    number = 0
    while number < len(record["rungs"]):
        trials = _run_rung(work, record, number, contestants)
        number += 1
        if number == len(record["rungs"]):
            record["rungs"] += _next_rung(work, record, trials, origin)
    _refuse_all_failed(work, record)
    finals = final_trials(record)
    for name, trial in finals.items():
        _measure(work, record, contestants[name], trial)
    judged = [
        Judged(name, flags_of(record["measured"][name]["right"]), in_full(trial, work.epochs))
        for name, trial in finals.items()
    ]
    decision = halving.verdict(judged) if judged else None
    work.save(record)
    fallback = next((one.name for one in contestants.values()), "")
    return {
        **record,
        "dataset": work.dataset,
        "budget": work.budget,
        "epochs": work.epochs,
        "origin": origin,
        "contestants": {name: one.command for name, one in contestants.items()},
        "origins_of": {name: one.config.pretrained for name, one in contestants.items()},
        "best": decision.best if decision else "",
        "tied": list(decision.tied) if decision else [],
        "recommended": decision.recommended if decision else fallback,
        "by_probes": decision is None,
    }


def check_asked(record: Record, asked: Mapping[str, Any], where: Path) -> None:
    """Note what a study is asked, or refuse a record of another question.

    Args:
        record: of the study, perhaps empty.
        asked: the flags that were typed, but for the budget and where things lie.
        where: the study is.

    Raises:
        UserError: names a flag that differs.
    """
    before = record.setdefault("asked", dict(asked))
    differing = [name for name in {**asked, **before} if asked.get(name) != before.get(name)]
    if differing:
        raise UserError(
            f"{where} holds a recommendation that was asked for with another --{differing[0]}; give another "
            "--workdir, or the same flags"
        )


def chosen_origins(probes: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """The origin to train from, and the one that came second; empty where there is none.

    It is the fastest of those that McNemar's test cannot tell from the best ridge probe.

    Args:
        probes: of the record; at least one that could be used.
    """
    right = {
        name: flags_of(probe["ridge"]["right"]) for name, probe in probes.items() if "unusable" not in probe
    }
    ranked = sorted(right, key=lambda name: (-int(right[name].sum()), probes[name]["milliseconds"]))
    tied = [name for name in ranked if mcnemar(right[ranked[0]], right[name]) > _TIED]
    origin = min(tied, key=lambda name: probes[name]["milliseconds"])
    others = [name for name in ranked if name != origin]
    return origin, others[0] if others else ""


def for_epochs(config: FinetuneConfig, epochs: int) -> FinetuneConfig:
    """A config for a training of fewer epochs, its warm-up and its drops of the rates in proportion."""
    share = epochs / config.epochs
    if share == 1:
        return config
    drops = {min(max(1, round(share * drop)), epochs) for drop in config.drop_epochs}
    return changed(
        config,
        epochs=epochs,
        warmup_epochs=share * config.warmup_epochs,
        drop_epochs=tuple(sorted(drops)),
    )


def final_trials(record: Record) -> dict[str, dict[str, Any]]:
    """The trial of each contestant in the last rung in which it has a score."""
    return {
        trial["name"]: trial
        for rung in record["rungs"]
        for trial in rung["trials"]
        if trial["score"] is not None
    }


def _probe_all(work: Work, record: Record) -> None:
    probes = record["probes"]
    for origin in work.origins:
        if origin in probes:
            continue
        if record["spent"] > _PROBING * work.budget and any(
            "unusable" not in probe for probe in probes.values()
        ):
            continue  # a larger budget probes it
        try:
            with _spending(work, record, f"probe/{origin}"):
                probes[origin] = dict(work.probe(origin))
        except UserError as error:
            if work.must_fit:
                raise
            probes[origin] = {"unusable": str(error)}
    if all("unusable" in probe for probe in probes.values()):
        raise UserError(next(probe["unusable"] for probe in probes.values()))


def _first_rung(work: Work, record: Record, names: list[str], origin: str) -> dict[str, Any]:
    """All methods, with as few epochs and images as several of them fit into the time with."""
    probe = record["probes"][origin]
    epochs = halving.first_epochs(work.epochs)
    of_class = 0
    if "classes" in probe:
        of_class = halving.images_per_class(
            len(names),
            seconds_left=work.budget - record["spent"],
            epochs=epochs,
            images=images_of(probe),
            classes=probe["classes"],
            judged=len(probe["validation"]),
            milliseconds=probe["milliseconds"],
        )
    rung = {"epochs": epochs, "names": names, "trials": [], "began": record["spent"]}
    return rung | ({"images_per_class": of_class} if of_class else {})


def _next_rung(work: Work, record: Record, trials: list[Trial], origin: str) -> list[dict[str, Any]]:
    """The rung after the last one: twice the images as long as there are more, then twice the epochs; [] at the end."""
    last, probe = record["rungs"][-1], record["probes"][origin]
    left = work.budget - record["spent"] - _to_measure(record)
    of_class = last.get("images_per_class", 0)
    most = 2 * last["epochs"] if of_class else work.epochs
    rung: Rung | None = halving.next_rung(trials, seconds_left=left, most_epochs=most)
    if rung is None:
        return []
    rung_record: dict[str, Any] = {"epochs": rung.epochs, "names": list(rung.names), "trials": []}
    if of_class:
        rung_record["epochs"] = last["epochs"]
        if 2 * of_class * probe["classes"] < images_of(probe):
            rung_record["images_per_class"] = 2 * of_class
    return [rung_record]


def _run_rung(work: Work, record: Record, number: int, contestants: Mapping[str, Contestant]) -> list[Trial]:
    """The trials of a rung, those that there was no time for left out."""
    rung = record["rungs"][number]
    is_last = number == len(record["rungs"]) - 1
    known = {trial["name"] for trial in rung["trials"]}
    missing = [name for name in rung["names"] if name not in known and name in contestants]
    work.progress.expect(len(missing))
    # What was decided after this rung stays, whatever the budget has become.
    for name in missing if is_last else ():
        until = work.budget - _to_measure(record)
        if number == 0 and sum(trial["score"] is not None for trial in rung["trials"]) > 1:
            # Two can be compared; the rest of the time is for comparing the better ones for longer.
            began = rung.get("began", 0.0)
            until = min(until, began + halving.FIRST_SHARE * (work.budget - began))
        if record["spent"] + _least_seconds(work, record, rung, contestants[name]) > until:
            continue
        trial = _try(work, record, contestants[name], rung)
        rung["trials"].append(trial)
        work.save(record)
        if not record["measured"] and trial["score"] is not None:
            _measure(work, record, contestants[name], trial)  # tells what the others will take in the end
    return [_trial_of(trial) for trial in rung["trials"]]


def _least_seconds(work: Work, record: Record, rung: Mapping[str, Any], contestant: Contestant) -> float:
    """What a trial takes at least: as long as the longest so far, before any as long as looking at the images."""
    if rung["trials"]:
        return float(max(trial["seconds"] for trial in rung["trials"]))
    probe = record["probes"][contestant.config.pretrained]
    images = images_of(probe)
    if "images_per_class" in rung:
        images = min(images, rung["images_per_class"] * probe["classes"])
    return float(rung["epochs"] * images * probe["milliseconds"] / 1000)


def _try(work: Work, record: Record, contestant: Contestant, rung: Mapping[str, Any]) -> dict[str, Any]:
    """One training; a method that does not suit the network, diverges or takes too long has no score."""
    epochs, of_class = rung["epochs"], rung.get("images_per_class", 0)
    words = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in contestant.name)
    name = f"rung_{epochs:03d}{f'_of_{of_class:04d}' if of_class else ''}/{words}"
    work.progress.begin(
        f"{contestant.name}, {epochs} epochs" + (f" of {of_class} images per class" if of_class else "")
    )
    # The probe of every run is known here, and would take longer than a short trial.
    few = {"images_per_class": of_class} if of_class else {}
    config = changed(for_epochs(contestant.config, epochs), probe=False, **few)
    ends, left = [work.clock()], work.budget - record["spent"] - _to_measure(record)

    def in_time(row: Mapping[str, Any]) -> None:
        ends.append(work.clock())
        # The first epoch compiles too: what further ones take is known from the second on.
        further = ends[-1] - ends[-2] if len(ends) > 2 else 0.0
        if int(row["epoch"]) < epochs and ends[-1] - ends[0] + further > left:
            raise Pruned(f"the budget ended after {row['epoch']} of {epochs} epochs")

    score, reason, summary = None, "", {}
    try:
        with _spending(work, record, name):
            summary = dict(work.train(config, name, in_time))
        score = float(summary[summary["score"].replace("test", "validation")])
        work.progress.scored(contestant.name, score)
    except Diverged:
        reason = "diverged"
    except (Pruned, UserError) as error:
        reason = str(error)
    train_images = summary.get("images", {}).get("train", 0)
    probe = record["probes"][contestant.config.pretrained]
    return {
        "name": contestant.name,
        "run": name,
        "epochs": epochs,
        "score": score,
        "reason": reason,
        "seconds": round(record["seconds_of"][name], 3),
        "seconds_per_epoch": summary.get("seconds_per_epoch", 0.0),
        "parameters_trained": summary.get("parameters_trained"),
        **({"share": _share_of_epoch(probe, train_images)} if of_class and train_images else {}),
        "images": summary.get("passes", 0) * train_images
        + summary.get("search", {}).get("images_trained", 0),
    }


def _measure(work: Work, record: Record, contestant: Contestant, trial: Mapping[str, Any]) -> None:
    """Note how right a trial is, image by image, unless that is known of this very trial."""
    if record["measured"].get(contestant.name, {}).get("run") == trial["run"]:
        return
    with _spending(work, record, f"measure/{contestant.name}"):
        config = for_epochs(contestant.config, trial["epochs"])
        measured = dict(work.measure(trial["run"], config))
        record["measured"][contestant.name] = {**measured, "run": trial["run"]}


def _to_measure(record: Record) -> float:
    """Seconds that are left for the end: for measuring each trial that has a score, and one more."""
    known = [seconds for name, seconds in record["seconds_of"].items() if name.startswith("measure/")]
    measured = record["measured"]
    runs = {name: trial["run"] for name, trial in final_trials(record).items()}
    missing = sum(measured.get(name, {}).get("run") != run for name, run in runs.items())
    return (missing + 1) * max(known, default=0.0)


def _share_of_epoch(probe: Mapping[str, Any], images: int) -> float:
    """What an epoch of so many training images takes of one of all, the validation images of both counted."""
    judged = halving.JUDGED * len(probe["validation"])
    return min(1.0, (halving.TRAINED * images + judged) / (halving.TRAINED * images_of(probe) + judged))


@contextmanager
def _spending(work: Work, record: Record, name: str) -> Iterator[None]:
    """Counts the seconds of a step, even of one that was stopped, and saves the record."""
    began = work.clock()
    try:
        yield
    finally:
        seconds = work.clock() - began
        record["spent"] += seconds
        record["seconds_of"][name] = record["seconds_of"].get(name, 0.0) + seconds
        work.save(record)


def _trial_of(trial: Mapping[str, Any]) -> Trial:
    score = math.nan if trial["score"] is None else trial["score"]
    return Trial(trial["name"], trial["epochs"], score, trial["seconds"], trial["seconds_per_epoch"])


def _refuse_all_failed(work: Work, record: Record) -> None:
    """Refuse a study all of whose methods failed, which is no matter of the budget.

    Raises:
        UserError: says why the first one failed.
    """
    tried = [trial for rung in record["rungs"] for trial in rung["trials"]]
    reasons = [trial["reason"] for trial in tried if "budget" not in trial["reason"]]
    if tried and all(reasons) and len(reasons) == len(tried):
        record["rungs"] = []  # tried again at the next start
        work.save(record)
        raise UserError(f"no method could be trained: {tried[0]['name']}: {reasons[0]}")
