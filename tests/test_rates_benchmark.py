"""Tables of benchmarks.rates from made-up lines: who ties, at what cost, who keeps the promise; and that it goes on."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from scipy import stats

from benchmarks import rates, rates_ideas, rates_record, rates_scale, rates_table
from finetune_jax.reports.figures import canvas


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


def entries(**cells):
    return [entry for name, rows in cells.items() for entry in rates_record.of_rows(name, rows, "s")]


def found(rows):
    return {result.contestant: result for result in rates_table.results(entries(cell=rows), "cell")}


def test_regret_is_to_the_grids_best_and_a_tie_is_within_the_larger_spread():
    results = found(
        cell({"single": [0.70, 0.72, 0.74], "auto": [0.70, 0.71, 0.72], "find": [0.67, 0.68, 0.69]})
    )
    assert results["auto"].regret == pytest.approx(1)
    assert results["auto"].tie, "the spread of the grid's best is 2 points"
    assert results["find"].regret == pytest.approx(4)
    assert not results["find"].tie
    assert (results["single"].mean, results["single"].spread) == (pytest.approx(72), pytest.approx(2))


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
        for text in rates_table.summary(entries(**cells)).splitlines()
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
    picture = rates_table.figure(entries(**cells))
    ElementTree.fromstring(picture)
    assert picture == rates_table.figure(entries(**cells))
    marks = {rates_table.mark_of(name) for name in rates_table.CONTESTANTS}
    assert len(marks) == len(rates_table.CONTESTANTS)


def test_the_figure_in_short_draws_each_choice_once_and_names_it(monkeypatch):
    drawn = {}
    real = canvas.new

    def new(*arguments, **settings):
        figure, axis = real(*arguments, **settings)
        drawn["axis"] = axis
        return figure, axis

    monkeypatch.setattr(canvas, "new", new)
    cells = {
        "first": cell({"single": [0.8], "default": [0.7], "auto_now": [0.1], "auto_still": [0.85]}),
        "second": cell({"single": [0.5], "auto_ratio": [0.15]}),
    }
    ElementTree.fromstring(rates_table.figure_in_short(entries(**cells)))
    points = {line.get_label(): line.get_xydata().round(3).tolist() for line in drawn["axis"].lines}
    assert points["default rate"] == [[-10, 0]]
    assert points["--method=auto"] == [[5, 0], [-30, 1]]
    assert points["AutoLR"] == []


def test_a_record_that_is_read_again_gives_the_same_tables_and_the_same_figure(tmp_path):
    rows = cell({"single": [0.701, 0.72], "auto": [0.7, 0.7], "find": [float("nan")]}, auto=1600)
    kept = entries(a=rows, b=cell({"single": [0.5], "layer_decay": [0.6]}))
    rates_record.write(tmp_path / "rates.csv", kept)
    again = rates_record.read(tmp_path / "rates.csv")
    assert rates_table.table(again) == rates_table.table(kept)
    assert rates_table.summary(again) == rates_table.summary(kept)
    assert rates_table.figure(again) == rates_table.figure(kept)
    assert rates_record.grid_of(again, "a") == dict.fromkeys((0.001, 0.003, 0.01, 0.03, 0.1), 50.0)
    assert rates_record.read(tmp_path / "none.csv") == []


def test_newer_lines_take_the_place_of_those_of_their_series_and_of_no_others():
    old = rates_record.of_rows("a", cell({"single": [0.7], "auto": [0.6], "find": [0.5]}), "old")
    newer = rates_record.of_rows("a", cell({"single": [0.8], "auto": [0.75]}), "new")
    more = rates_record.of_rows("a", cell({"auto": [0.9]}), "old")
    both = rates_record.merged(rates_record.merged(old, newer), more)
    results = {(result.contestant, result.series): result for result in rates_table.results(both, "a")}
    assert {place: round(result.mean) for place, result in results.items()} == {
        ("single", "old"): 70,
        ("single", "new"): 80,
        ("auto", "new"): 75,
        ("auto", "old"): 90,
        ("find", "old"): 50,
    }
    # Beside the grid's best of its own series.
    assert results["auto", "new"].regret == pytest.approx(5)
    assert results["auto", "old"].regret == pytest.approx(-20)
    assert len([entry for entry in both if entry.contestant == "grid"]) == 10


def test_the_first_series_of_a_contestant_counts_in_the_summary():
    old = rates_record.of_rows("a", cell({"single": [0.7], "auto": [0.6]}), "old")
    newer = rates_record.of_rows("a", cell({"single": [0.8], "auto": [0.5], "find": [0.75]}), "new")
    rows = rates_table.summary(rates_record.merged(old, newer)).splitlines()[2:]
    worst = {row.split("|")[1].strip(): row.split("|")[4].strip() for row in rows}
    assert worst == {"single": "", "auto": "10.0", "find": "5.0"}


def test_what_follows_a_grid_that_was_recorded_pays_for_it_in_runs_of_the_single_rate():
    rows = [row for row in cell({"single": [0.7], "auto_rgn": [0.7]}) if row["contestant"] != "grid"]
    recorded = {0.01: 50.0, 0.03: 60.0, 0.1: 40.0}
    of_name = {entry.contestant: entry for entry in rates_record.of_rows("a", rows, "s", recorded)}
    assert set(of_name) == {"single", "auto_rgn"}
    assert (of_name["single"].runs, of_name["auto_rgn"].runs) == (3, 4)
    assert (of_name["single"].seconds, of_name["auto_rgn"].seconds) == (30, 40)
    with pytest.raises(ValueError, match="no run of a single rate"):
        rates_record.of_rows("a", [line("auto", 0, 0.5)], "s")


def test_who_is_far_behind_is_not_drawn():
    near = {"single": [0.7, 0.8], "auto": [0.7, 0.6]}
    drawn = rates_table.figure(entries(a=cell(near)))
    assert rates_table.figure(entries(a=cell({**near, "dog": [0.1, 0.1]}))) == drawn
    assert rates_table.figure(entries(a=cell({**near, "dog": [0.6, 0.6]}))) != drawn


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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cell=new", "--contestants=single", "dataset=digits"], "no grid is recorded for this cell"),
        (["--table"], "--table needs a name for the runs"),
        (["--table", "--series=now"], "bare: no run of a single rate"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(flags, message, tmp_path, monkeypatch, capsys):
    rates_table.Log(tmp_path / "bare.jsonl").add({"contestant": "auto", "seed": 0})
    record = tmp_path / "rates.csv"
    monkeypatch.setattr("sys.argv", ["rates", f"--workdir={tmp_path}", f"--record={record}", *flags])
    with pytest.raises(SystemExit) as ended:
        rates.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not record.exists()


def test_where_no_grid_is_asked_for_the_recorded_one_is_followed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(rates, "contest", lambda name, started, best, log, seed: started.train(best))
    (tmp_path / "cell.json").write_text("{}")
    log = rates_table.Log(tmp_path / "cell.jsonl")
    started = Started(asked, 0)
    with pytest.raises(ValueError, match="no grid is recorded"):
        rates.run_cell(lambda settings: started, log, ["single"], (0,))
    rates.run_cell(
        lambda settings: started,
        log,
        ["single", "decay_grid"],
        (0,),
        recorded={0.003: 80.0, 0.01: 90.0, 0.03: 70.0},
    )
    assert asked == [(0.01, 0), *[(rate, 100) for _ in range(3) for rate in (0.01, 0.03)], (0.01, 0)]


@pytest.mark.parametrize(
    ("losses", "chosen", "tested"),
    [
        ({2.0: 1.0, 4.0: 0.98}, 4.0, 2),
        ({2.0: 1.0, 4.0: 0.995, 1.0: 0.98}, 1.0, 3),
        ({2.0: 1.0, 4.0: 0.995, 1.0: 0.992}, 2.0, 3),
        ({2.0: float("inf"), 4.0: float("inf"), 1.0: 3.0}, 1.0, 3),
    ],
)
def test_a_scale_changes_for_more_than_one_per_cent_and_half_is_tried_last(losses, chosen, tested):
    asked = []
    assert rates_scale.chosen_scale(lambda scale: asked.append(scale) or losses[scale], 2.0) == chosen
    assert len(asked) == tested


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
