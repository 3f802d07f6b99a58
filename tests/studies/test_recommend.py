"""A recommendation: decided by the clock once, and then as recorded; told with ties, costs and the probe."""

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_jax.config.durations import seconds_of
from finetune_jax.config.recipes import recipe
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import Diverged, Stopped, UserError
from finetune_jax.reports import recommend as report
from finetune_jax.reports import study_report
from finetune_jax.runs.probing import flags_text
from finetune_jax.studies import recommend as study

IMAGES = 100


def right(share: float) -> str:
    return flags_text(np.arange(IMAGES) < round(share * IMAGES))


class MadeUp:
    """A study with a clock of its own: an epoch takes ``per_epoch`` seconds, a start 1 s, a probe 2 s."""

    def __init__(self, scores: Mapping[str, float], per_epoch: Mapping[str, float] | None = None) -> None:
        self.scores, self.per_epoch = scores, per_epoch or {}
        self.now, self.trained, self.probed, self.saved = 0.0, [], [], {}
        self.stop_at = ""
        self.probes = {"good": 0.7, "bad": 0.4}

    def probe(self, origin: str) -> dict[str, Any]:
        self.now += 2.0
        self.probed.append(origin)
        of_folds = {"folds": [self.probes[origin]] * 2, "right": right(self.probes[origin])}
        return {
            "ridge": of_folds,
            "neighbours": of_folds,
            "logme": 0.5,
            "similarity": None,
            "validation": right(self.probes[origin]),
            "image_size": 32,
            "milliseconds": 1.0,
            "parameters": 1_000_000,
            "features": 8,
        }

    def contestants(self, origin: str, second: str) -> list[study.Contestant]:
        return [
            study.Contestant(
                name, FinetuneConfig(pretrained=origin, epochs=16), f"finetune-jax finetune # {name}"
            )
            for name in self.scores
        ]

    def train(self, config: FinetuneConfig, name: str, after_epoch: Any) -> dict[str, Any]:
        if name == self.stop_at:
            self.now += 5.0
            raise Stopped("stopped")
        self.trained.append(name)
        method = name.rpartition("/")[2].replace("_", " ")
        self.now += 1.0
        for epoch in range(1, config.epochs + 1):
            self.now += self.per_epoch.get(method, 1.0)
            after_epoch({"epoch": str(epoch)})
        if np.isnan(self.scores[method]):
            raise Diverged("too fast")
        return {
            "score": "test_accuracy",
            "validation_accuracy": self.scores[method],
            "passes": config.epochs,
            "images": {"train": 50},
            "parameters_trained": 900,
            "seconds_per_epoch": self.per_epoch.get(method, 1.0),
        }

    def measure(self, name: str, config: FinetuneConfig) -> dict[str, Any]:
        return {"right": right(self.scores[name.rpartition("/")[2].replace("_", " ")]), "milliseconds": 1.0}

    def save(self, record: dict[str, Any]) -> None:
        self.saved = json.loads(json.dumps(record))

    def run(self, budget: float, record: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        settings = {
            "dataset": "photos",
            "origins": ("bad", "good"),
            "must_fit": True,
            "probe": self.probe,
            "curve": lambda origin: {"5": [0.5, 0.6], "10": [0.7, 0.7]},
            "contestants": self.contestants,
            "train": self.train,
            "measure": self.measure,
            "save": self.save,
            "budget": budget,
            "epochs": 16,
            "clock": lambda: self.now,
        }
        work = study.Work(**(settings | more))
        return study.run(work, {} if record is None else record)


SCORES = {"head": 0.72, "full": 0.95, "lora": 0.93, "weak": 0.5}


def test_methods_are_halved_on_the_better_weights_until_the_epochs_are_whole() -> None:
    made = MadeUp(SCORES)
    result = made.run(1000.0)
    assert made.probed == ["bad", "good"]
    assert result["origin"] == "good"
    assert [(rung["epochs"], rung["names"]) for rung in result["rungs"]] == [
        (2, ["head", "full", "lora", "weak"]),
        *((epochs, ["full", "lora"]) for epochs in (4, 8, 16)),
    ]
    assert result["best"] == "full"
    assert result["tied"] == ["full", "lora"]
    assert result["spent"] == made.now


def test_a_study_that_is_stopped_goes_on_with_the_same_survivors() -> None:
    whole = MadeUp(SCORES)
    expected = whole.run(1000.0)
    for name in whole.trained:
        stopped, went_on = MadeUp(SCORES), MadeUp(SCORES)
        stopped.stop_at = name
        with pytest.raises(Stopped):
            stopped.run(1000.0)
        result = went_on.run(1000.0, stopped.saved)
        assert not went_on.probed
        assert stopped.trained + went_on.trained == whole.trained
        assert result["rungs"][-1]["names"] == expected["rungs"][-1]["names"]
        assert result["spent"] == expected["spent"] + 5.0  # the time of the stopped one counts
    again = MadeUp(SCORES)
    assert again.run(1000.0, copy.deepcopy(whole.saved)) == expected
    assert not again.trained


def test_a_larger_budget_goes_further_from_where_a_smaller_one_ended() -> None:
    made = MadeUp(SCORES)
    small = made.run(8.0)
    assert [rung["epochs"] for rung in small["rungs"]] == [2]
    before = list(made.trained)
    large = made.run(1000.0, made.saved)
    assert [rung["epochs"] for rung in large["rungs"]] == [2, 4, 8, 16]
    assert len(set(made.trained)) == len(made.trained) > len(before)


def test_the_first_rung_leaves_half_of_the_time_to_compare_the_better_ones_for_longer() -> None:
    # Probes take 4 s, a trial of two epochs 3 s: of 20 s that are left a fourth trial would take more than 10.
    result = MadeUp(SCORES).run(24.0)
    tried = [[trial["name"] for trial in rung["trials"]] for rung in result["rungs"]]
    assert tried == [["head", "full", "lora"], ["full", "lora"]]
    assert "No time was left to try weak." in study_report.text(report.report(result))


def test_where_time_is_short_trials_take_few_images_and_better_ones_more() -> None:
    made = MadeUp({"full": 0.95, "lora": 0.93})
    few: list[int] = []

    def probe(origin: str) -> dict[str, Any]:
        return {**made.probe(origin), "milliseconds": 50.0, "classes": 2}

    def train(config: FinetuneConfig, name: str, after_epoch: Any) -> dict[str, Any]:
        few.append(config.images_per_class)
        return made.train(config, name, after_epoch)

    result = made.run(204.0, probe=probe, train=train)
    assert [(rung["epochs"], rung.get("images_per_class", 0)) for rung in result["rungs"]] == [
        *((2, count) for count in (16, 32, 0)),
        *((epochs, 0) for epochs in (4, 8, 16)),
    ]
    assert few == [count for count in (16, 32, 0, 0, 0, 0) for _ in range(2)]
    first = result["rungs"][0]["trials"][0]
    # The summaries say 50 of 100 images, trained at three times the price of the 100 that judge.
    assert first["share"] == pytest.approx((150 + 100) / (300 + 100))
    assert report.in_full(first, 16) == pytest.approx(1.0 + 16 * 400 / 250)
    said = study_report.text(report.report(result))
    assert "trials took 16 per class and in the end 32" in said


def test_a_budget_too_small_to_train_anything_recommends_by_the_probes() -> None:
    made = MadeUp(SCORES)
    result = made.run(1.0)
    assert (result["by_probes"], result["recommended"], made.trained) == (True, "head", [])
    assert made.probed == ["bad"]  # the only one there was time for
    text = study_report.text(report.report(result))
    assert "too small to train anything" in text
    assert "finetune-jax finetune # head" in text


def test_a_training_that_outlasts_the_budget_is_ended_and_told() -> None:
    made = MadeUp(SCORES, per_epoch={"full": 50.0})
    result = made.run(30.0)
    trials = {trial["name"]: trial for trial in result["rungs"][0]["trials"]}
    assert trials["full"]["score"] is None
    assert "the budget ended after 1 of 2 epochs" in study_report.text(report.report(result))
    assert result["recommended"] == "head"


@pytest.mark.parametrize("budget", [30.0, 45.0, 60.0, 90.0, 135.0, 200.0])
def test_what_is_measured_at_the_end_is_within_the_budget(budget: float) -> None:
    made = MadeUp(SCORES, per_epoch={"lora": 2.0})

    def measure(name: str, config: FinetuneConfig) -> dict[str, Any]:
        made.now += 3.0
        return made.measure(name, config)

    result = made.run(budget, measure=measure)
    assert made.now == result["spent"] <= budget
    assert len(result["measured"]) > 1


def test_a_training_for_whose_next_epoch_no_time_is_left_ends() -> None:
    made, epochs = MadeUp({"head": 0.72, "full": 0.95}), list[str]()

    def train(config: FinetuneConfig, name: str, after_epoch: Any) -> dict[str, Any]:
        def slower(row: Mapping[str, Any]) -> None:
            epochs.append(row["epoch"])
            made.now += 12.0 if len(epochs) > 4 else 0.0  # others use the machine from the second rung on
            after_epoch(row)

        return made.train(config, name, slower)

    result = made.run(48.0, train=train)
    assert "the budget ended after 2 of 4 epochs" in [
        trial["reason"] for trial in result["rungs"][1]["trials"]
    ]
    assert made.now == result["spent"] <= 48.0


def test_what_went_on_with_a_larger_budget_is_measured_anew() -> None:
    made, measured = MadeUp(SCORES), list[str]()

    def measure(name: str, config: FinetuneConfig) -> dict[str, Any]:
        measured.append(name)
        return made.measure(name, config)

    small = made.run(8.0, measure=measure)
    assert measured == list(dict.fromkeys(measured))
    large = made.run(1000.0, copy.deepcopy(made.saved), measure=measure)
    assert {one["run"] for one in small["measured"].values()} <= set(measured)
    for name, trial in study.final_trials(large).items():
        assert large["measured"][name]["run"] == trial["run"]
        assert measured.count(trial["run"]) == 1


def test_what_diverges_or_does_not_suit_stays_in_the_table() -> None:
    made = MadeUp({"head": 0.8, "full": float("nan")})
    text = study_report.text(report.report(made.run(1000.0)))
    assert "diverged" in text

    def refuse(config: FinetuneConfig, name: str, after_epoch: Any) -> dict[str, Any]:
        raise UserError("no blocks")

    with pytest.raises(UserError, match="no method could be trained: head: no blocks"):
        made.run(1000.0, train=refuse)


def test_the_report_tells_ties_costs_the_probe_and_the_command() -> None:
    made = MadeUp(SCORES)
    result = made.run(1000.0)
    page = report.report(result)
    text = study_report.text(page)
    assert "tie with lora" in text
    assert "finetune-jax finetune # full" in text
    assert "It beats the ridge probe (70.00 %) by more than chance" in text
    assert "95.00 [88.82, 97.85]" in text  # Wilson's interval of 95 of 100
    row = next(line for line in text.splitlines() if line.startswith("full  "))
    # Four rungs: 2 + 4 + 8 + 16 epochs of 50 images, each with a start of one second.
    assert "34 s" in row
    assert "1,500" in row
    assert [picture.name for picture in page.pictures] == ["learning_curve"]
    assert json.loads(page.data["results.json"])["recommended"] == "full"


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"head": 0.72}, "There was no time to try another; a larger --budget compares it."),
        ({"head": 0.72, "weak": 0.2}, "It is measurably better than all others that were tried."),
    ],
)
def test_the_only_one_that_was_tried_is_not_called_better_than_others(scores, said) -> None:
    text = study_report.text(report.report(MadeUp(scores).run(1000.0)))
    others = {"There was no time", "It is measurably better"} - {said[:17], said[:23]}
    assert said in text
    assert not any(other in text for other in others)


def test_trials_too_short_to_reach_the_probe_are_not_called_a_recommendation() -> None:
    text = study_report.text(report.report(MadeUp({"head": 0.24, "full": 0.20}).run(1000.0)))
    assert "No trial that there was time for was long enough to reach the ridge probe" in text
    assert "(70.00 % of the validation images, head 24.00 %)" in text
    assert "Recommended:" not in text


def test_methods_are_named_with_their_weights_once_where_these_are_not_those_of_the_others() -> None:
    result = dict(MadeUp({"head": 0.72, "full": 0.71, "lora on bad": 0.7}).run(1000.0))
    result["origins_of"] = {"head": "good", "full": "bad", "lora on bad": "bad"}
    rows = [row[0] for row in report.methods_table(result).rows]
    assert rows[1:] == ["head", "full on bad", "lora on bad"]


def test_origins_that_tie_give_the_faster_one() -> None:
    probes = {
        "slow": {"ridge": {"right": right(0.80)}, "milliseconds": 9.0},
        "fast": {"ridge": {"right": right(0.79)}, "milliseconds": 1.0},
        "poor": {"ridge": {"right": right(0.30)}, "milliseconds": 0.1},
        "none": {"unusable": "no such file"},
    }
    assert study.chosen_origins(probes) == ("fast", "slow")


def test_weights_that_cannot_be_used_are_left_out_unless_they_were_named() -> None:
    def probe(origin: str) -> dict[str, Any]:
        if origin == "bad":
            raise UserError("bad has three channels")
        return made.probe(origin)

    made = MadeUp(SCORES)
    result = made.run(1000.0, probe=probe, must_fit=False)
    assert "bad: bad has three channels" in study_report.text(report.report(result))
    with pytest.raises(UserError, match="three channels"):
        made.run(1000.0, probe=probe)


def test_a_shorter_training_warms_up_and_drops_in_proportion() -> None:
    config = dataclasses.replace(
        recipe("standard"), epochs=20, warmup_epochs=2.0, schedule="step", drop_epochs=(10, 15)
    )
    short = study.for_epochs(config, 4)
    assert (short.epochs, short.warmup_epochs, short.drop_epochs) == (4, pytest.approx(0.4), (2, 3))
    assert study.for_epochs(config, 20) == config


@pytest.mark.parametrize("text", ["abc", "0m", "", "30", "-5m", "5m!"])
def test_a_budget_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"--budget={text} is no time above 0"):
        seconds_of(text, "budget")


def test_a_record_of_another_question_is_refused(tmp_path: Path) -> None:
    record: dict[str, Any] = {}
    study.check_asked(record, {"dataset": "photos"}, tmp_path)
    study.check_asked(record, {"dataset": "photos"}, tmp_path)
    for asked in ({"dataset": "others"}, {}):
        with pytest.raises(UserError, match="asked for with another --dataset"):
            study.check_asked(record, asked, tmp_path)
    with pytest.raises(UserError, match="another --seed"):
        study.check_asked(record, {"dataset": "photos", "seed": 1}, tmp_path)
