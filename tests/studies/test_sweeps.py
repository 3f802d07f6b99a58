"""Sweeps: what is tried, the best of it, the sampler, pruning and results."""

import csv
import dataclasses
import json
import math
from fractions import Fraction
from itertools import product

import jax
import pytest
from PIL import Image
from sweeps import BASE, GRID, MadeUp, accuracy, points, sweep

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.reports import study_report
from finetune_jax.reports import sweep as sweep_report
from finetune_jax.studies.runs import Runs
from finetune_jax.studies.sweeps import sweep as hpo
from finetune_jax.studies.sweeps.search import Point, Search

DRAWS_FIGURES = True


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


# --- results -------------------------------------------------------------------------------------------------


def test_settings_that_did_equally_well_are_all_marked(storage, tmp_path):
    train = MadeUp()
    result = sweep(storage, train, GRID)
    for trial in result["trials"]:
        trial["score"] = 0.5
    result["best"] |= {"score": 0.5}
    count = sum(trial["state"] == "complete" for trial in result["trials"])
    text = study_report.text(sweep_report.report(result, tmp_path))
    assert sum(" * " in line for line in text.splitlines()) == count > 1
    assert f" (the first of {count} that did equally well)\n" in text


def test_table_csv_and_figures_hold_every_configuration(storage, tmp_path):
    search = dataclasses.replace(GRID, dedup=True)
    result = sweep(storage, MadeUp(), search)
    runs = Runs(tmp_path / "study", Replicas((jax.devices()[0],)))
    runs.write_files(study_report.files(sweep_report.report(result, runs.root)))
    assert json.loads((runs.root / "results.json").read_text()) == result
    text = (runs.root / "results.txt").read_text()
    assert "digits, 8 configurations tried (1 equal)" in text
    assert "highest: --learning_rate=0.01 --momentum=0.9 --weight_decay=0\n" in text
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
