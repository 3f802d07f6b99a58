"""Rates in either unit: what they come to, what contradicts what, and that a run trains with them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from photos import write_photos

from finetune_jax import models
from finetune_jax.algorithms import hyperparameters
from finetune_jax.config import resolution
from finetune_jax.config.checks import validate
from finetune_jax.config.recipes import changed
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.models import registry
from finetune_jax.models.card import read_best
from finetune_jax.runs import finetune

RATES = st.floats(1e-6, 10.0)


@given(rate=RATES, decay=RATES, momentum=st.floats(0.0, 0.99))
def test_effective_values_come_back_as_they_were_given(rate, decay, momentum):
    config = FinetuneConfig(
        effective_learning_rate=rate, effective_weight_decay=decay, momentum=momentum, learning_rate=0.01
    )
    found = resolution.values(resolution.resolve(config, steps_per_epoch=5))
    assert found["effective_learning_rate"] == pytest.approx(rate, rel=1e-10)
    assert found["effective_weight_decay"] == pytest.approx(decay, rel=1e-10)
    assert found["learning_rate"] == pytest.approx(rate * (1 - momentum), rel=1e-10)
    assert found["weight_decay"] == pytest.approx(decay * rate * (1 - momentum), rel=1e-10)
    # The printed rates, given by hand, are these very numbers.
    by_hand = FinetuneConfig(
        learning_rate=found["learning_rate"], weight_decay=found["weight_decay"], momentum=momentum
    )
    assert resolution.values(resolution.resolve(by_hand, steps_per_epoch=5)) == found


@pytest.mark.parametrize(("momentum", "rate"), [(0.9, 0.01), (0.0, 0.1), (0.99, 0.001), (0.95, 0.005)])
def test_round_numbers_stay_round(momentum, rate):
    config = FinetuneConfig(effective_learning_rate=0.1, momentum=momentum)
    assert resolution.resolve(config, steps_per_epoch=1).learning_rate == rate


def test_what_is_given_plainly_is_not_touched():
    config = FinetuneConfig(learning_rate=1 / 3, weight_decay=1 / 7, norm_momentum=0.3)
    assert resolution.resolve(config, steps_per_epoch=1000) == config


@pytest.mark.parametrize(("steps", "momentum"), [(1, 0.9), (100, 0.9), (200, 0.95), (1000, 0.99)])
def test_the_rule_of_batch_norm_looks_at_the_steps_per_epoch(steps, momentum):
    config = FinetuneConfig(norm_momentum="rule")
    assert resolution.resolve(config, steps_per_epoch=steps).norm_momentum == pytest.approx(momentum)


def test_values_without_meaning_are_left_open():
    adamw = resolution.values(FinetuneConfig(optimizer="adamw"))
    assert adamw["momentum"] is adamw["effective_learning_rate"] is adamw["effective_weight_decay"] is None
    autolr = resolution.values(FinetuneConfig(method="autolr"))
    assert autolr["effective_learning_rate"] == pytest.approx(0.1)
    assert autolr["effective_weight_decay"] is None
    assert resolution.line(autolr, 7) == (
        "learning rate 0.01 (effective 0.1), momentum 0.9, weight decay 0.0005, batch-norm momentum 0.9; "
        "7 steps per epoch"
    )
    assert resolution.line(autolr, 1).endswith("; 1 step per epoch")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (
            {"effective_learning_rate": 0.1, "learning_rate": 0.1},
            "--learning_rate and --effective_learning_rate",
        ),
        ({"effective_weight_decay": 0.1, "weight_decay": 0.1}, "--weight_decay and --effective_weight_decay"),
        ({"effective_learning_rate": -0.1}, r"--effective_learning_rate=-0\.1 is out of range"),
        ({"effective_learning_rate": 0.0}, r"--effective_learning_rate=0\.0 is out of range"),
        ({"effective_learning_rate": float("nan")}, "--effective_learning_rate=nan is out of range"),
        ({"effective_weight_decay": -1.0}, r"--effective_weight_decay=-1\.0 is out of range"),
        ({"effective_learning_rate": 0.1, "optimizer": "adamw"}, "is for --optimizer=sgd"),
        ({"effective_weight_decay": 0.1, "optimizer": "adamw"}, "is for --optimizer=sgd"),
        ({"effective_weight_decay": 0.1, "method": "autolr"}, "contradicts --method=autolr"),
        ({"norm_momentum": "law"}, "--norm_momentum=law is no number; give one, or rule"),
        ({"norm_momentum": 1.0}, r"--norm_momentum=1\.0 is out of range"),
        ({"momentum": -0.1}, r"--momentum=-0\.1 is out of range"),
    ],
)
def test_contradictions_and_values_out_of_range_are_named(settings, named):
    with pytest.raises(UserError, match=named):
        validate(FinetuneConfig(**settings))


def test_the_ends_of_the_ranges_are_allowed():
    validate(FinetuneConfig(momentum=0.0, norm_momentum=0.0, effective_weight_decay=0.0))


def test_of_two_units_the_one_that_is_set_later_counts():
    effective = changed(FinetuneConfig(learning_rate=0.3), effective_learning_rate=0.1)
    assert resolution.resolve(effective, steps_per_epoch=1).learning_rate == 0.01
    plain = changed(effective, learning_rate=0.2, epochs=3)
    assert (plain.learning_rate, plain.effective_learning_rate, plain.epochs) == (0.2, None, 3)


def test_another_norm_momentum_makes_the_network_that_would_be_created_with_it():
    network = models.create("resnet26", 7, width=0.25, head="retrieval")
    network = dataclasses.replace(network, blocks=network.blocks[:5])
    expected = models.create("resnet26", 7, width=0.25, head="retrieval", norm_momentum=0.5)
    expected = dataclasses.replace(expected, blocks=expected.blocks[:5])
    assert registry.with_norm_momentum(network, 0.5) == expected != network


def test_a_run_trains_with_the_rates_its_effective_ones_come_to(tmp_path, monkeypatch):
    monkeypatch.setattr(hyperparameters, "norm_momentum_for", lambda steps: steps / 10)
    one = Replicas((jax.devices()[0],))
    shared = FinetuneConfig(
        dataset=f"folder:{write_photos(tmp_path / 'photos', per_class=12)}",
        cache_dir=str(tmp_path / "cache"),
        image_size=8,
        batch_size=8,
        prune_depth=9,
        epochs=1,
        momentum=0.5,
    )
    effective = changed(
        shared, effective_learning_rate=0.04, effective_weight_decay=0.05, norm_momentum="rule"
    )
    by_hand = changed(shared, learning_rate=0.02, weight_decay=0.001, norm_momentum=0.3)
    found, summaries = [], []
    for name, config in (("effective", effective), ("by_hand", by_hand)):
        config = dataclasses.replace(config, workdir=str(tmp_path / name))
        summaries.append(finetune.run(config, one))
        found.append(read_best(tmp_path / name)[1])
    jax.tree.map(np.testing.assert_array_equal, *found)
    told = {
        "learning_rate": 0.02,
        "momentum": 0.5,
        "weight_decay": 0.001,
        "effective_learning_rate": 0.04,
        "effective_weight_decay": 0.05,
        "norm_momentum": 0.3,
    }
    for summary in summaries:
        assert {name: summary[name] for name in told} == told
    flags = json.loads((tmp_path / "effective" / "flags.json").read_text())
    assert flags["norm_momentum"] == "rule"
