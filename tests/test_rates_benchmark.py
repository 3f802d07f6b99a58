"""Tables of benchmarks.rates from made-up lines: who ties, at what cost, who keeps the promise; and that it goes on."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from scipy import stats

from benchmarks import rates, rates_ideas, rates_table


def line(contestant, seed, test, trained=1000, **more):
    row = {"contestant": contestant, "seed": seed, "validation": test, "test": test, "trained": trained}
    return {**row, "judged": 0, "seconds": 10.0, **more}


def cell(scores, **costs):
    """Lines of a grid of five rates, and of contestants with so many scores."""
    grid = [line("grid", 100, 0.5, rate=rate) for rate in (0.001, 0.003, 0.01, 0.03, 0.1)]
    own = [
        line(name, seed, test, costs.get(name, 1000), rate=0.01)
        for name, values in scores.items()
        for seed, test in enumerate(values)
    ]
    return grid + own


def found(rows):
    return {result.name: result for result in rates_table.results(rows)}


def test_regret_is_to_the_grids_best_and_a_tie_is_within_the_larger_spread():
    results = found(
        cell({"single": [0.70, 0.72, 0.74], "auto": [0.70, 0.71, 0.72], "find": [0.67, 0.68, 0.69]})
    )
    assert results["auto"].regret == pytest.approx(0.01)
    assert results["auto"].tie, "the spread of the grid's best is 0.02"
    assert results["find"].regret == pytest.approx(0.04)
    assert not results["find"].tie
    assert (results["single"].mean, results["single"].spread) == (pytest.approx(0.72), pytest.approx(0.02))


def test_costs_are_in_plain_runs_and_what_follows_a_grid_pays_for_it():
    rows = cell({"single": [0.7], "auto": [0.7], "layer_decay": [0.7], "find": [0.7]}, auto=1600)
    rows = [{**row, "judged": 300} if row["contestant"] == "find" else row for row in rows]
    results = found(rows)
    assert {name: result.runs for name, result in results.items()} == {
        "single": pytest.approx(5.0),  # the best of the grid has been trained in it
        "auto": pytest.approx(1.6),
        "layer_decay": pytest.approx(6.0),
        "find": pytest.approx(1.1),
    }
    assert results["layer_decay"].seconds == pytest.approx(60.0)


@pytest.mark.parametrize(
    ("score", "cost", "keeps"), [(0.7, 1750, True), (0.7, 1760, False), (0.69, 1750, False)]
)
def test_the_promise_is_a_tie_at_a_quarter_of_seven_runs(score, cost, keeps):
    assert found(cell({"single": [0.7], "auto": [score]}, auto=cost))["auto"].keeps is keeps


def test_a_run_that_diverged_counts_as_nothing_right():
    assert found(cell({"single": [0.7], "find": [float("nan")]}))["find"].mean == 0


def test_the_summary_ranks_those_that_ran_everywhere_and_tells_the_worst_regret():
    cells = {
        "a": cell({"single": [0.8], "auto": [0.8], "default": [0.6], "probe": [0.9]}),
        "b": cell({"single": [0.8], "auto": [0.9], "default": [0.7]}, auto=2000),
    }
    rows = [
        [entry.strip() for entry in text.strip("|").split("|")]
        for text in rates_table.summary(cells).splitlines()
    ]
    by_name = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    # In cell a the first two share the ranks 1 and 2.
    ranks = {name: row["mean rank"] for name, row in by_name.items()}
    assert ranks == {"auto": "1.2", "single": "1.8", "default": "3.0", "probe": ""}
    assert by_name["default"]["worst regret"] == "20.0"
    assert by_name["auto"]["worst regret"] == "0.0"
    assert by_name["auto"]["keeps the promise in"] == "1 of 2"
    assert by_name["auto"]["cost in runs"] == "1.00 to 2.00"
    assert by_name["probe"]["cells"] == "1"


def test_the_figure_has_a_panel_for_each_cell_and_a_mark_of_its_own_for_each_contestant():
    cells = {"first": cell({"single": [0.7, 0.8], "auto": [0.7, 0.7]}), "second": cell({"single": [0.5]})}
    picture = rates_table.figure(cells)
    ElementTree.fromstring(picture)
    assert picture == rates_table.figure(cells)
    marks = {rates_table.mark_of(name) for name in rates_table.CONTESTANTS}
    assert len(marks) == len(rates_table.CONTESTANTS)


class Started:
    """A start whose runs are a formula of the rate; ``asked`` notes them."""

    def __init__(self, asked, seed):
        self.asked, self.seed = asked, seed
        self.whole = self.rehearsals = self
        self.cost = self
        self.images_trained, self.images_judged = 0, 0

    def rates(self, rate, **settings):
        return rate

    def train(self, rate):
        self.asked.append((rate, self.seed))
        self.images_trained = 100
        score = 1 / (1 + abs(rate - 0.3))
        return {"validation": score, "test": score}

    def of_seed(self, seed):
        return Started(self.asked, seed)


def test_a_grid_is_widened_while_its_best_lies_at_an_edge_and_no_line_is_trained_twice(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(rates, "contest", lambda name, started, best, log, seed: started.train(best))
    file = tmp_path / "cell.jsonl"
    (tmp_path / "cell.json").write_text("{}")

    def run(until):
        log = rates_table.Log(file)
        rates.run_cell(lambda settings: Started(asked, 0), log, ["grid", "single"], (0, 1), until)

    with pytest.raises(rates.Late):
        run(until=-1.0)
    assert asked == []
    run(until=float("inf"))
    grid = [rate for rate, seed in asked if seed == 100]
    assert grid == [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
    assert asked[len(grid) :] == [(0.3, 0), (0.3, 1)]
    lines = file.read_text().splitlines()
    assert [json.loads(text)["contestant"] for text in lines] == ["grid"] * 7 + ["single"] * 2
    run(until=float("inf"))
    assert len(asked) == 9
    assert file.read_text().splitlines() == lines


@pytest.mark.parametrize(("above", "taken"), [(0.9, 0.001), (1.1, 0.01)])
def test_a_smaller_rate_is_as_good_up_to_one_standard_error_of_the_paired_differences(above, taken):
    rng = np.random.default_rng(0)
    # Images differ far more than rates, which unpaired errors would not see through.
    best, noise = rng.uniform(0, 5, 200), rng.normal(0, 0.1, 200)
    noise = noise - noise.mean()
    error = stats.sem(noise)
    losses = {0.1: np.zeros(0), 0.01: best, 0.001: best + noise + above * error, 0.03: best + 1}
    assert rates_ideas.smallest_within_error(losses) == taken


def test_where_training_diverged_at_every_rate_none_is_taken():
    with pytest.raises(ValueError, match="diverged at every rate"):
        rates_ideas.smallest_within_error({0.1: np.zeros(0), 1.0: np.zeros(0)})
