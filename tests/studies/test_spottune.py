"""The table of SpotTune's paper: its rows are runnable, and what is written is what was measured."""

import csv
import dataclasses
import io
import json

import jax
import pytest
from PIL import Image

from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.reports import spottune as spottune_report
from finetune_jax.reports import study_report
from finetune_jax.studies import spottune
from finetune_jax.studies.comparison import Protocol, configured
from finetune_jax.studies.runs import Runs

DRAWS_FIGURES = True

BASE = FinetuneConfig(
    method="spottune_global", k=2, frozen_first=4, temperature=2.0, budget_weight=0.7, frozen_norm="learn"
)
TABLE_2 = {
    "feature extractor": ("feature_extractor", 1),
    "standard": ("standard", 1),
    "stochastic": ("stochastic", 1),
    "last 3": ("last_k", 3),
    "last 2": ("last_k", 2),
    "last 1": ("last_k", 1),
    "random policy": ("random_policy", 1),
    "ResNet-101": ("standard", 1),
    "L2-SP": ("l2_sp", 1),
    "progressive network": ("progressive", 1),
    "SpotTune, all tuned": ("spottune_tuned", 1),
    "SpotTune, global": ("spottune_global", 2),
    "SpotTune": ("spottune", 1),
}


def test_every_row_of_table_2_is_a_run_whose_settings_all_have_an_effect():
    validate(BASE)
    entries = spottune.entries(BASE, compare=True, resnet101="weights.npz")
    assert [entry.name for entry in entries] == list(TABLE_2)
    for entry in entries:
        config = configured(BASE, entry, 0.03, 5)
        validate(config)
        assert (config.method, config.k) == TABLE_2[entry.name]
        assert (config.learning_rate, config.seed) == (0.03, 5)
        routed = config.method.startswith("spottune") or config.method == "random_policy"
        assert config.frozen_first == (4 if routed else 0)
        assert config.temperature == (2.0 if config.method.startswith("spottune") else 5.0)
        assert config.budget_weight == (0.7 if entry.name == "SpotTune, global" else 1.0)
        assert config.weight_decay == (0.0 if entry.name == "L2-SP" else 5e-4)
    resnet101 = next(entry for entry in entries if entry.name == "ResNet-101")
    assert configured(BASE, resnet101, 0.01, 0).pretrained == "weights.npz"


def test_resnet_101_needs_weights_and_the_short_table_five_rows():
    names = [entry.name for entry in spottune.entries(BASE, compare=True)]
    assert names == [name for name in TABLE_2 if name != "ResNet-101"]
    assert len(spottune.entries(BASE, compare=False)) == 5


@pytest.fixture(scope="module")
def result():
    """A study whose runs are made up: the best rate is 0.01, accuracy is the row's number plus the seed's."""
    trained = []

    def train(config, name):
        trained.append((config.method, config.learning_rate, config.seed, name))
        place = list(TABLE_2.values()).index((config.method, config.k))
        score = 0.5 + place / 100 - abs(config.learning_rate - 0.01)
        of_policy = {
            "usage": {f"block_{number:02d}": number / 3 - config.seed / 10 for number in (1, 2, 3)},
            "tuned_block_counts": [1, 2, 3, 4 + config.seed],
        }
        return {
            "score": "test_accuracy",
            "validation_accuracy": score,
            "test_accuracy": score + config.seed / 1000,
            "epochs_trained": 5,
            "passes": 5,
            "seconds": 1.5,
            "parameters": 1000 + place,
            "parameters_trained": 100,
            **(of_policy if "spottune" in config.method else {}),
        }

    protocol = Protocol((0.003, 0.01, 0.03), (0,), (0, 1))
    return spottune.run(BASE, train, protocol, compare=True), trained


def test_every_method_gets_its_best_rate_and_every_seed(result):
    study, trained = result
    assert [entry["name"] for entry in study["entries"]] == [n for n in TABLE_2 if n != "ResNet-101"]
    for entry in study["entries"]:
        assert entry["rate"] == 0.01
        assert entry["test"]["test_accuracy"][1] - entry["test"]["test_accuracy"][0] == pytest.approx(0.001)
    assert study["configurations"] == 12 * 3
    assert len({name for *_, name in trained}) == 12 * 3 + 12 * 2
    assert study["without"] == ["ResNet-101"]


def test_the_table_and_both_figures_hold_the_numbers_of_the_runs(result, tmp_path):
    study, _ = result
    Runs(tmp_path, Replicas((jax.devices()[0],))).write_files(
        study_report.files(spottune_report.report(study))
    )
    assert json.loads((tmp_path / "results.json").read_text())["entries"][0]["name"] == "feature extractor"
    text = (tmp_path / "results.txt").read_text()
    assert "ResNet-101 is left out" in text
    (row,) = [line for line in text.splitlines() if line.startswith("SpotTune ") and "±" in line]
    assert "62.05 ± 0.07" in row
    usage = list(csv.reader(io.StringIO((tmp_path / "policy_usage.csv").read_text())))
    assert usage[0] == ["", "block_01", "block_02", "block_03"]
    assert [row[0] for row in usage[1:]] == ["digits, seed 0", "digits, seed 1"]
    assert [float(cell) for cell in usage[2][1:]] == pytest.approx([1 / 3 - 0.1, 2 / 3 - 0.1, 0.9])
    counts = list(csv.reader(io.StringIO((tmp_path / "policy_counts.csv").read_text())))
    assert counts[2] == ["digits, seed 1", "1", "2", "3", "5"]
    for name in ("policy_usage.png", "policy_counts.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 200


def test_a_single_rate_is_not_searched_for():
    base = dataclasses.replace(BASE, select_on="last")
    calls = []

    def train(config, name):
        calls.append(name)
        return {
            "score": "test_accuracy",
            "validation_accuracy": 0.5,
            "test_accuracy": 0.5,
            "epochs_trained": 1,
            "passes": 1,
            "seconds": 1.0,
            "parameters": 1,
            "parameters_trained": 1,
        }

    study = spottune.run(base, train, Protocol((0.02,), (0,), (3,)), compare=False)
    assert {entry["rate"] for entry in study["entries"]} == {0.02}
