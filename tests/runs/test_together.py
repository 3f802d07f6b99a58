"""Whole runs trained together: in turn bit for bit, in lockstep to rounding those alone."""

import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from small_runs import run_on_photos

import finetune_jax
from finetune_jax.devices.replicas import local_replicas
from finetune_jax.errors import Diverged, UserError
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models.card import read_best
from finetune_jax.runs import finetune

REPLICAS = local_replicas(jax.devices()[:1])
SETTINGS = (
    {"learning_rate": 0.02, "momentum": 0.9, "weight_decay": 5e-4},
    {"learning_rate": 1e6, "momentum": 0.9},
    {"learning_rate": 0.05, "momentum": 0.0, "weight_decay": 0.0, "head_learning_rate": 0.1},
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return run_on_photos(tmp_path_factory.mktemp("together"))


def group(base, root, settings=SETTINGS):
    return [
        dataclasses.replace(base, workdir=str(root / f"run{number}"), **values)
        for number, values in enumerate(settings)
    ]


@pytest.fixture(scope="module")
def compile_times():
    """``time.time()`` of every XLA compilation of this module's fixtures."""
    times = []

    def note(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            times.append(time.time())

    jax.monitoring.register_event_duration_secs_listener(note)
    yield times
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture(scope="module")
def in_turn(base, compile_times, tmp_path_factory):
    configs = group(base, tmp_path_factory.mktemp("in_turn"))
    return (
        configs,
        finetune.train_in_lockstep(configs, REPLICAS, vectorize=False),
        list(compile_times),
    )


@pytest.fixture(scope="module")
def in_lockstep(base, tmp_path_factory):
    configs = group(base, tmp_path_factory.mktemp("in_lockstep"))
    return configs, finetune.train_in_lockstep(configs, REPLICAS, vectorize=True)


def best_of(config):
    return jax.tree.leaves(read_best(Path(config.workdir))[1])


def test_trained_in_turn_a_run_is_bit_for_bit_the_one_alone(base, in_turn, tmp_path):
    configs, (_, _, together_), _ = in_turn
    config = dataclasses.replace(configs[2], workdir=str(tmp_path / "run"))
    summary = finetune.run(config, REPLICAS)
    assert together_["test_loss"] == summary["test_loss"]
    for ours, theirs in zip(best_of(configs[2]), best_of(config), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_trained_in_turn_only_the_first_run_compiles(in_turn):
    configs, _, times = in_turn
    first_ended = (Path(configs[0].workdir) / "summary.json").stat().st_mtime
    assert times
    assert max(times) < first_ended


def test_trained_in_lockstep_a_run_equals_the_one_alone_to_rounding(in_turn, in_lockstep):
    configs_alone, alone_, _ = in_turn
    configs, summaries = in_lockstep
    for lane in (0, 2):
        assert summaries[lane]["best_epoch"] == alone_[lane]["best_epoch"]
        assert summaries[lane]["test_loss"] == pytest.approx(alone_[lane]["test_loss"], rel=1e-3)
        for ours, theirs in zip(best_of(configs[lane]), best_of(configs_alone[lane]), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=3e-4)
    assert not np.allclose(best_of(configs[0])[-1], best_of(configs[2])[-1], rtol=1e-2)


@pytest.mark.parametrize("way", ["in_turn", "in_lockstep"])
def test_each_run_directory_is_complete_and_the_run_that_diverged_is_told(way, request):
    configs, results, *_ = request.getfixturevalue(way)
    assert isinstance(results[1], Diverged)
    assert not (Path(configs[1].workdir) / "summary.json").exists()
    for lane in (0, 2):
        path = Path(configs[lane].workdir)
        names = {entry.name for entry in path.iterdir()}
        assert {"flags.json", "metrics.csv", "checkpoints", "report.html", "training.png"} <= names
        assert json.loads((path / "summary.json").read_text()) == results[lane]
        assert len(RunDirectory(path).read_metrics()) == 2
        flags = json.loads((path / "flags.json").read_text())
        assert flags["momentum"] == configs[lane].momentum
    predictor = finetune_jax.load(configs[0].workdir)
    assert predictor(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 3)


@pytest.mark.parametrize("way", ["in_turn", "in_lockstep"])
def test_runs_that_have_ended_are_not_trained_again(way, request, compilations):
    configs, results, *_ = request.getfixturevalue(way)
    ended = [configs[0], configs[2]]
    before = compilations.count
    again = finetune.train_in_lockstep(ended, REPLICAS, vectorize=way == "in_lockstep")
    assert again == [results[0], results[2]]
    assert compilations.count == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 6}, "--batch_size=6 and --batch_size=12 cannot be trained together"),
        ({"seed": 1}, "--seed=1 and --seed=0 cannot"),
        ({"momentum": 1.0}, "--momentum=1.0 is out of range"),
        ({"workdir": ""}, "--workdir is empty"),
    ],
)
def test_runs_that_do_not_go_together_are_named_before_anything_is_made(base, tmp_path, changes, named):
    first, *_, last = group(base, tmp_path)
    with pytest.raises(UserError, match=named):
        finetune.train_in_lockstep([first, dataclasses.replace(last, **changes)], REPLICAS)
    with pytest.raises(UserError, match="is given for several runs"):
        finetune.train_in_lockstep([first, first], REPLICAS)
    assert not list(tmp_path.iterdir())
