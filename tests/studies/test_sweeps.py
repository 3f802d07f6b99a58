"""Sweeps: studies that Optuna really keeps, with a made-up function that stands for training, and real runs."""

import csv
import dataclasses
import functools
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from fractions import Fraction
from itertools import product
from pathlib import Path

import jax
import pytest
from photos import write_photos
from PIL import Image
from sweeps import BASE, GRID, MadeUp, accuracy, points, queue_of, sweep

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import Pruned, UserError
from finetune_jax.reports import sweep as sweep_report
from finetune_jax.runs import finetune
from finetune_jax.studies.runs import Runs
from finetune_jax.studies.sweeps import sweep as hpo
from finetune_jax.studies.sweeps.search import Point, Search
from finetune_jax.studies.sweeps.trial_queue import TrialQueue
from finetune_jax.studies.sweeps.workers import Worker

ROOT = Path(__file__).parents[2]


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "study.journal"


# --- what is tried -------------------------------------------------------------------------------------------


def test_the_grid_is_the_papers_unless_one_is_given():
    search = Search()
    assert set(search.learning_rates) == {0.1, 0.05, 0.01, 0.005, 0.001, 0.0001}
    assert set(search.momenta) == {0.99, 0.95, 0.9, 0.8, 0.0}
    assert set(search.weight_decays) == {0, 0.0001, 0.0005, 0.001}
    assert len(set(search.points())) == 120


def test_a_grid_of_effective_rates_moves_the_rate_with_the_momentum():
    search = Search(
        effective_learning_rates=(0.1, 1.0), momenta=(0.0, 0.9, 0.99), weight_decays=(0.0, 1e-4), dedup=True
    )
    points = search.points()
    assert {(p.effective_learning_rate, p.momentum) for p in points} == set(
        product((0.1, 1.0), (0.0, 0.9, 0.99))
    )
    assert {p.learning_rate for p in points} == {0.1, 0.01, 0.001, 1.0}
    # Without weight decay momentum is all that differs; with it the effective decay differs too.
    assert len(search.equals()) == 4
    with pytest.raises(UserError, match="--effective_learning_rates is for --search=grid"):
        dataclasses.replace(search, kind="tpe", dedup=False).check(FinetuneConfig())


def test_points_are_equal_where_both_effective_values_are_in_exact_arithmetic():
    search = Search(dedup=True)

    def exact(point):
        rate, momentum, decay = (Fraction(repr(value)) for value in point)
        return rate / (1 - momentum), decay / rate

    first, expected = {}, {}
    for index, point in enumerate(search.points()):
        earlier = first.setdefault(exact(point), index)
        if earlier != index:
            expected[index] = earlier
    assert len(expected) == 27
    assert search.equals() == expected
    assert dataclasses.replace(search, dedup=False).equals() == {}


@pytest.mark.parametrize(
    ("settings", "base", "message"),
    [
        ({"learning_rates": ()}, {}, "--learning_rates= is out of range"),
        (
            {"learning_rates": (-0.1, 0.1)},
            {},
            r"--learning_rates=-0\.1,0\.1 is out of range; give rates above 0",
        ),
        ({"learning_rates": (0.0,)}, {}, "--learning_rates=0 is out of range"),
        ({"learning_rates": (math.inf,)}, {}, "--learning_rates=inf"),
        ({"momenta": (0.9, 1.0)}, {}, r"--momenta=0\.9,1 is out of range; give numbers in \[0, 1\)"),
        ({"momenta": (math.nan,)}, {}, "--momenta=nan"),
        ({"weight_decays": (-1.0,)}, {}, "--weight_decays=-1 is out of range"),
        ({"weight_decays": (0.1, 0.1)}, {}, "none twice"),
        ({"trials": 0}, {}, "--trials=0"),
        ({}, {"optimizer": "adamw"}, "--momenta is for --optimizer=sgd"),
        ({"dedup": True, "momenta": (0.9,)}, {"optimizer": "adamw"}, "--dedup is for --optimizer=sgd"),
        ({"dedup": True}, {"head_learning_rate": 0.1}, r"--dedup contradicts --head_learning_rate=0\.1"),
        ({}, {"select_on": "test"}, "--select_on=test contradicts"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_the_name_of_its_flag(settings, base, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(GRID, **settings).check(dataclasses.replace(BASE, **base))


def test_adamw_is_searched_without_momentum():
    dataclasses.replace(GRID, momenta=(0.9,)).check(dataclasses.replace(BASE, optimizer="adamw"))


# --- a study -------------------------------------------------------------------------------------------------


def test_every_point_of_the_grid_is_trained_once_and_the_best_is_tested(storage):
    train = MadeUp()
    result = sweep(storage, train, seeds=(0, 3))
    assert points(result, "complete") == set(product((0.01, 0.1), (0.0, 0.9), (0.0, 0.001)))
    assert len(train.names) == len(set(train.names)) == 8 * 2
    best = result["best"]
    assert [best[name] for name in Point._fields] == [0.01, 0.9, 0.0]  # the first of two equally good
    assert best["score"] == pytest.approx(0.9 + 0.0015)
    assert best["run"] == f"{best['directory']}/seed3"
    assert best["test"] == pytest.approx([0.85, 0.853])
    again = MadeUp()
    again.summaries = train.summaries
    assert sweep(storage, again, seeds=(0, 3)) == result
    assert again.names == []


def test_of_equal_points_one_is_trained_and_its_score_is_that_of_all(storage):
    train = MadeUp()
    search = dataclasses.replace(GRID, dedup=True, weight_decays=(0.0, 0.0001, 0.001))
    result = sweep(storage, train, search)
    # η = 0.01 with m = 0.9 and η = 0.1 with m = 0: equal where λ is 0, or 0.0001 and 0.001.
    assert points(result, "equal") == {(0.1, 0.0, 0.0), (0.1, 0.0, 0.001)}
    assert result["trained"] == len(train.names) == 10
    assert len(result["trials"]) == 12
    trained = {trial["number"]: trial for trial in result["trials"] if trial["state"] == "complete"}
    for trial in result["trials"]:
        if trial["state"] == "equal":
            other = trained[trial["equal_to"]]
            assert trial["score"] == other["score"]
            assert trial["effective_learning_rate"] == other["effective_learning_rate"] == 0.1
            assert trial["effective_weight_decay"] == other["effective_weight_decay"]


def test_a_point_that_diverges_with_one_seed_is_no_choice(storage):
    train = MadeUp(
        lambda config: math.nan if config.learning_rate == 0.01 and config.seed else accuracy(config)
    )
    result = sweep(storage, train, seeds=(0, 1))
    assert len(points(result, "diverged")) == 4
    assert result["best"]["learning_rate"] == 0.1
    nowhere = sweep(storage.with_name("other"), MadeUp(lambda config: math.nan))
    assert nowhere["best"] is None


def test_several_trials_at_once_are_handed_over_together(storage):
    handed = []
    train = MadeUp()

    def together(jobs):
        handed.append([(job.config.seed, job.name) for job in jobs])
        return train(jobs)

    together.summaries = train.summaries
    result = sweep(storage, together, seeds=(0, 1), at_once=3)
    assert [len(jobs) for jobs in handed] == [3, 3, 3, 3, 2, 2]
    assert all(len({seed for seed, _ in jobs}) == 1 for jobs in handed)
    assert len(points(result, "complete")) == 8


# --- the sampler and pruning ---------------------------------------------------------------------------------

TPE = dataclasses.replace(GRID, kind="tpe", learning_rates=(0.0001, 1.0), trials=16, pruner="median")


def test_tpe_draws_the_same_trials_again_whether_or_not_it_was_restarted(storage):
    one = MadeUp()
    whole = sweep(storage, one, TPE)
    assert len(whole["trials"]) == 16
    assert {trial["momentum"] for trial in whole["trials"]} == {0.0, 0.9}
    rates = [trial["learning_rate"] for trial in whole["trials"]]
    assert len(set(rates)) == 16
    assert 0.0001 <= min(rates) < 0.01 < max(rates) <= 1
    other, two = storage.with_name("other"), MadeUp()
    sweep(other, two, dataclasses.replace(TPE, trials=7))
    parts = sweep(other, two, TPE)
    assert parts["trials"] == whole["trials"]
    assert two.names == one.names
    other_seed = sweep(storage.with_name("third"), MadeUp(), dataclasses.replace(TPE, seed=1, trials=2))
    assert other_seed["trials"][0]["learning_rate"] != rates[0]


def test_trials_worse_than_the_median_end_early_and_are_no_choice(storage):
    train = MadeUp()
    result = sweep(storage, train, TPE)
    pruned = [trial for trial in result["trials"] if trial["state"] == "pruned"]
    assert pruned
    finished = sorted(trial["score"] for trial in result["trials"] if trial["state"] == "complete")
    for trial in pruned:
        assert trial["number"] >= 5
        assert train.epochs[trial["directory"]] == trial["epochs"] < BASE.epochs
        point = Point(*(trial[name] for name in Point._fields))
        assert accuracy(hpo.configured(BASE, point, 0)) < finished[-1]
    assert result["best"]["score"] == finished[-1]
    unpruned = sweep(storage.with_name("other"), MadeUp(), dataclasses.replace(TPE, pruner="none"))
    assert not points(unpruned, "pruned")


def test_a_point_that_tpe_draws_again_is_not_trained_again(storage):
    train = MadeUp()
    search = dataclasses.replace(TPE, learning_rates=(0.1,), trials=12, pruner="none")
    result = sweep(storage, train, search)
    assert len(result["trials"]) == 12
    assert len(train.names) == len(points(result, "complete")) <= 4
    equal = [trial for trial in result["trials"] if trial["state"] == "equal"]
    scores = {trial["number"]: trial["score"] for trial in result["trials"]}
    assert equal
    assert all(trial["score"] == scores[trial["equal_to"]] for trial in equal)


# --- many workers, lost workers ------------------------------------------------------------------------------


def start_worker(log, storage, stuck="none"):
    return subprocess.Popen(
        [sys.executable, Path(__file__).parents[1] / "sweeps.py", str(log), str(storage), stuck],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_workers_share_a_study_and_go_on_with_the_trial_of_one_that_was_killed(tmp_path, kind):
    storage = tmp_path / "study.journal" if kind == "journal" else f"sqlite:///{tmp_path}/study.db"
    log = tmp_path / "log"
    log.touch()
    killed = start_worker(log, storage, stuck="0002")
    deadline = time.monotonic() + 60
    while "0002" not in log.read_text():
        assert time.monotonic() < deadline, killed.communicate(timeout=1)
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = log.read_text().split()
    assert [name[:4] for name in before] == ["0000", "0001", "0002"]
    workers = [start_worker(log, storage) for _ in range(2)]
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert worker.returncode == 0, err
        assert out.strip() == "8"
    names = log.read_text().split()
    # Finished trials are not trained again, the interrupted one is, in its own directory.
    assert sorted(names) == sorted([*{*names}, before[2]])
    assert len({*names}) == 8
    assert sum(name == before[2] for name in names) == 2


def test_the_trial_of_a_worker_on_another_machine_is_taken_after_its_last_sign_of_life(storage):
    elsewhere, here = queue_of(storage, grace=300), queue_of(storage, grace=300)
    elsewhere._me = elsewhere._me._replace(place="another machine")
    clock = [0.0]
    here._now = lambda: clock[0]
    with elsewhere:
        (theirs,) = elsewhere.take(1)
        with here:
            taken = here.take(8)
            assert [trial.number for trial in taken] == [1, 2, 3, 4, 5, 6, 7]
            for _ in range(3):
                elsewhere._give_sign_of_life()
                assert here.take(1) == []
                clock[0] += 200
                assert here.take(1) == []
                assert not here.done
            clock[0] += 101
            (again,) = here.take(1)
            assert again.number == 8
            assert (again.point, again.run) == (theirs.point, theirs.run)
            # The other worker comes back: it is told to stop, and what it says does not count.
            assert elsewhere.report(theirs, 1, 0.5)
            elsewhere.finish(theirs, [0.123])
            for trial in [*taken, again]:
                here.finish(trial, [0.5])
            assert here.done
            assert [record.scores for record in here.records()] == [(0.5,)] * 8


def test_a_process_that_has_ended_or_another_one_with_its_number_is_told_from_one_that_runs():
    me = Worker.here()
    assert not me.has_ended()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert me._replace(process=child.pid).has_ended()
    assert me._replace(started="long ago").has_ended() == bool(me.started)
    assert not me._replace(process=child.pid, place="elsewhere").has_ended()
    assert not Worker(me.place, os.getpid(), "").has_ended()


def test_a_worker_that_ends_by_an_error_gives_its_trial_back(storage):
    def full(jobs):
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        sweep(storage, full)
    train = MadeUp()
    assert len(points(sweep(storage, train), "complete")) == 8
    assert len(train.names) == 8


# --- storages ------------------------------------------------------------------------------------------------


def test_a_study_with_other_settings_is_refused_and_stays_as_it_was(storage):
    sweep(storage, MadeUp())
    before = storage.read_bytes()
    changed = dataclasses.replace(BASE, epochs=3)
    with pytest.raises(UserError, match=r"other settings: --epochs=3 \(was 4\); give the same flags"):
        sweep(storage, MadeUp(), base=changed)
    with pytest.raises(UserError, match=r"--momenta=\[0\.5\] \(was \[0\.0, 0\.9\]\)"):
        sweep(storage, MadeUp(), dataclasses.replace(GRID, momenta=(0.5,)))
    with pytest.raises(UserError, match=r"--seeds=\[1\] \(was \[0\]\)"):
        sweep(storage, MadeUp(), seeds=(1,))
    moved = dataclasses.replace(
        BASE, cache_dir="/elsewhere", learning_rate=0.7
    )  # neither changes a run of it
    assert sweep(storage, MadeUp(), base=moved)["trained"] == 8
    assert len(storage.read_bytes()) - len(before) < 1000


def test_a_record_cut_short_by_a_full_disk_costs_nothing_else(storage):
    train = MadeUp()
    with queue_of(storage) as queue:
        (taken,) = queue.take(1)
        with storage.open("ab") as file:
            file.write(b'{"op_code": 6, "worker_')
        queue.finish(taken, [0.25])
    records = sweep(storage, train)["trials"]
    assert len(records) == 8
    assert records[0]["score"] == 0.25
    assert len(train.names) == 7


def test_a_storage_that_is_locked_is_an_error_and_loses_no_trial(tmp_path, monkeypatch):
    monkeypatch.setattr("LOCK_SECONDS", 0.2)
    file = tmp_path / "study.db"
    storage = f"sqlite:///{file}"
    other = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
    train = MadeUp()

    def locks_at_the_third(jobs):
        if len(train.names) == 2:
            other.execute("BEGIN EXCLUSIVE")
        return train(jobs)

    with pytest.raises(UserError, match=r"--storage=sqlite.*study\.db cannot be used: .*database is locked"):
        sweep(storage, locks_at_the_third)
    with pytest.raises(UserError, match=r"cannot be (used|opened): .*database is locked"):
        sweep(storage, train)
    other.execute("ROLLBACK")
    other.close()
    assert len(points(sweep(storage, train), "complete")) == 8
    assert len(train.names) == 9  # the one that was in training begins again, and finds its run ended


@pytest.mark.parametrize(
    ("storage", "parts"),
    [
        ("sqlite:////nowhere/at/all/study.db", ["--storage=sqlite:////nowhere", "unable to open"]),
        ("postgresql://me:secret@localhost:1/none", ["--storage=postgresql://me:***@localhost:1/none"]),
        ("magic://host/name", ["--storage=magic://host/name", "magic"]),
        ("/proc/none/study.journal", ["--storage=/proc/none/study.journal cannot be used"]),
        ("{tmp}", ["cannot be used: Is a directory"]),
        ("{tmp}/photo.txt", ["is no journal of a study"]),
        ("{tmp}/list.json", ["is no journal of a study"]),
    ],
)
def test_a_storage_that_cannot_be_reached_is_named_without_its_password(tmp_path, storage, parts):
    (tmp_path / "photo.txt").write_text("no journal\nat all\n")
    (tmp_path / "list.json").write_text('["no", "journal"]\n')
    with pytest.raises(UserError) as error:
        queue_of(storage.replace("{tmp}", str(tmp_path)))
    for part in parts:
        assert part in str(error.value)
    assert "secret" not in str(error.value)


# --- results -------------------------------------------------------------------------------------------------


def test_table_csv_and_figures_hold_every_configuration(storage, tmp_path):
    search = dataclasses.replace(GRID, dedup=True)
    result = sweep(storage, MadeUp(), search)
    runs = Runs(tmp_path / "study", Replicas((jax.devices()[0],)))
    runs.write_files(sweep_report.files(result, runs.root))
    assert json.loads((runs.root / "results.json").read_text()) == result
    text = (runs.root / "results.txt").read_text()
    assert "digits, 8 configurations tried (1 equal)" in text
    assert "best: --learning_rate=0.01 --momentum=0.9 --weight_decay=0\n" in text
    assert f"run directory: {runs.root / 'runs' / result['best']['run']}" in text
    assert "test accuracy: 85.00" in text
    (best,) = [line for line in text.splitlines() if " * " in line]
    assert result["best"]["directory"].startswith(best.split()[0] + "-")
    rows = list(csv.DictReader((runs.root / "trials.csv").open()))
    assert len(rows) == 8
    assert {float(row["effective_learning_rate"]) for row in rows} == {0.01, 0.1, 1.0}
    for name in ("momentum", "effective_learning_rate", "effective_weight_decay"):
        with Image.open(runs.root / f"{name}.png") as picture:
            assert picture.width > 300


def test_errors_over_the_effective_rate_agree_between_momenta_where_only_it_matters(storage):
    result = sweep(storage, MadeUp(), dataclasses.replace(GRID, weight_decays=(0.0,)))
    drawn = sweep_report.curves(result)
    plain, effective = drawn["momentum"].values()
    assert dict(plain["m = 0"])[0.01] != pytest.approx(dict(plain["m = 0.9"])[0.01])
    assert (
        dict(effective["m = 0"])[0.1] == pytest.approx(dict(effective["m = 0.9"])[0.1]) == pytest.approx(10)
    )
    (panel,) = drawn["effective_learning_rate"].values()
    assert list(panel) == ["λ = 0"]
    assert sorted(value for value, _ in panel["λ = 0"]) == [0.01, 0.1, 0.1, 1.0]


# --- real runs -----------------------------------------------------------------------------------------------


def test_a_real_run_that_was_pruned_goes_on_where_it_ended_and_the_best_is_a_run_directory(tmp_path):
    base = FinetuneConfig(
        dataset=f"folder:{write_photos(tmp_path / 'photos')}",
        cache_dir=str(tmp_path / "cache"),
        image_size=16,
        batch_size=12,
        epochs=2,
        method="feature_extractor",
        prune_depth=8,
    )
    runs = Runs(tmp_path / "study", Replicas((jax.devices()[0],)))
    train = hpo.one_by_one(runs)
    told = []

    def stop(row):
        told.append((int(row["epoch"]), float(row["validation_accuracy"])))
        if len(told) == 1:
            raise Pruned("worse")

    config = hpo.configured(base, Point(0.02, 0.9, 0.0), 0)
    (ended,) = train([hpo.Job(config, "0000-lr0.02-m0.9-wd0", stop)])
    assert isinstance(ended, Pruned)
    assert runs.summary("0000-lr0.02-m0.9-wd0") is None
    # The same point again, by a study: the first epoch is told from what was saved, the second trained.
    search = Search(learning_rates=(0.02,), momenta=(0.9,), weight_decays=(0.0,))
    queue = TrialQueue(str(tmp_path / "study.journal"), "sweep", search, hpo.settings(base, search, (0,)))
    records = hpo.run(base, search, (0,), queue, train)
    result = hpo.result(base, search, (0,), records, runs.summary)
    assert result["best"]["epochs"] == 2
    directory = runs.root / "runs" / result["best"]["run"]
    summary = json.loads((directory / "summary.json").read_text())
    assert result["best"]["test"] == [summary["test_accuracy"]]
    rows = list(csv.DictReader((directory / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[0]["validation_accuracy"]) == told[0][1]
    assert (directory / "report.html").exists()


@pytest.mark.parametrize("vectorize", [False, True])
def test_trials_trained_together_end_as_they_do_alone_and_a_pruned_one_stops_no_other(
    tmp_path, monkeypatch, vectorize
):
    base = FinetuneConfig(
        dataset=f"folder:{write_photos(tmp_path / 'photos')}",
        cache_dir=str(tmp_path / "cache"),
        image_size=16,
        batch_size=12,
        epochs=2,
        method="feature_extractor",
        prune_depth=8,
    )
    monkeypatch.setattr(
        finetune, "run_together", functools.partial(finetune.run_together, vectorize=vectorize)
    )
    search = Search(learning_rates=(0.002, 0.02, 1e30), momenta=(0.9,), weight_decays=(0.0,))
    pruned = {}

    def second_is_pruned(jobs):
        def stop(row):
            pruned[int(row["epoch"])] = True
            raise Pruned("worse")

        return train([job._replace(after_epoch=stop) if job.name.startswith("0001") else job for job in jobs])

    runs = Runs(tmp_path / "together", Replicas((jax.devices()[0],)))
    train = hpo.together(runs)
    queue = TrialQueue(str(tmp_path / "a.journal"), "sweep", search, hpo.settings(base, search, (0,)))
    records = hpo.run(base, search, (0,), queue, second_is_pruned, at_once=3)
    assert [record.state for record in records] == ["complete", "pruned", "diverged"]
    assert pruned == {1: True}
    assert records[0].steps == 2
    if vectorize:
        return
    alone = Runs(tmp_path / "alone", Replicas((jax.devices()[0],)))
    (summary,) = hpo.one_by_one(alone)(
        [hpo.Job(hpo.configured(base, records[0].point, 0), "first", lambda row: None)]
    )
    assert summary["validation_accuracy"] == records[0].score
