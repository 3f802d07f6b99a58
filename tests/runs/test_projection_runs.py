"""Runs of Fast Trainable Projection and TPGM: inside their balls, exact after a kill, the same on several devices."""

import dataclasses

import jax
import numpy as np
import pytest
from small_runs import small_run

from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.models.card import read_best
from finetune_jax.runs import finetune, predict
from finetune_jax.runs import start as run_start
from finetune_jax.training import saving


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    home = tmp_path_factory.mktemp("projection")
    return small_run(
        home,
        classes=2,
        count=40,
        epochs=2,
        learning_rate=0.02,
        method="ftp",
        radius_rate=0.02,
        select_on="last",
    )


def weights_of(config, workdir, devices=1):
    replicas = Replicas(tuple(jax.devices()[:devices]))
    finetune.run(dataclasses.replace(config, workdir=str(workdir)), replicas)
    return read_best(workdir)[1]["params"]


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    return weights_of(config, tmp_path_factory.mktemp("runs") / "undisturbed")


def test_pretrained_parts_move_but_a_little_and_the_head_freely(config, undisturbed, tmp_path):
    start = run_start.load_origin(config).variables["params"]
    free = weights_of(dataclasses.replace(config, method="standard", radius_rate=0.01), tmp_path / "free")

    def moved(params):
        kernel = params["block_01"]["conv1"]["kernel"] - start["block_01"]["conv1"]["kernel"]
        return float(np.abs(kernel).sum((0, 1, 2)).max())

    steps = 2 * 3  # of at most 0.02 per radius each, and Adam's first are the largest
    assert 1e-4 < moved(undisturbed) <= steps * config.radius_rate * 1.5 < moved(free)


@pytest.mark.parametrize("method", ["ftp", "tpgm"])
def test_a_run_that_breaks_off_goes_on_to_the_same_bits(config, undisturbed, method, tmp_path, monkeypatch):
    save = saving.save_state
    if method == "tpgm":
        # Broken off between two turns, which come after every second step.
        config = dataclasses.replace(config, method=method, radii_every=2, checkpoint_steps=1)
        undisturbed = weights_of(config, tmp_path / "undisturbed")

    def save_and_break(*arguments, **settings):
        save(*arguments, **settings)
        raise RuntimeError("killed")

    monkeypatch.setattr(saving, "save_state", save_and_break)
    with pytest.raises(RuntimeError, match="killed"):
        weights_of(config, tmp_path / "again")
    monkeypatch.undo()
    again = weights_of(config, tmp_path / "again")
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(undisturbed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_number_of_devices_changes_rounding_alone(config, tmp_path):
    synchronised = dataclasses.replace(config, sync_batch_norm=True, epochs=1)
    ends = [weights_of(synchronised, tmp_path / str(devices), devices) for devices in (1, 4)]
    for a, b in zip(*(jax.tree.leaves(end) for end in ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


def test_a_run_of_tpgm_says_how_far_its_parts_may_go_and_predicts(config, tmp_path):
    replicas = Replicas(tuple(jax.devices()[:1]))
    ours = dataclasses.replace(config, method="tpgm", epochs=1, workdir=str(tmp_path))
    summary = finetune.run(ours, replicas)
    start = run_start.load_origin(config).variables["params"]
    params = read_best(tmp_path)[1]["params"]
    for part, radius in summary["largest_radii"].items():
        movement = jax.tree.map(np.subtract, params[part], start[part])
        norms = [np.abs(leaf).sum(tuple(range(leaf.ndim - 1))).max() for leaf in jax.tree.leaves(movement)]
        assert 0 < max(norms) <= radius * 1.001
    assert predict.load(tmp_path)(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 2)


@pytest.mark.parametrize("method", ["ftp", "tpgm"])
@pytest.mark.parametrize("optimizer", ["prodigy", "schedule_free_adamw"])
def test_optimisers_that_look_back_are_refused(method, optimizer):
    with pytest.raises(UserError, match=f"--optimizer={optimizer} contradicts --method={method}"):
        validate(FinetuneConfig(method=method, optimizer=optimizer, learning_rate=1.0))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ema_decay": 0.9}, "--ema_decay contradicts --method=tpgm"),
        ({"loss": "bce"}, "--loss=bce contradicts --method=tpgm"),
        ({"pretrained": "none"}, "--method=tpgm needs weights"),
        ({"radius_shrinking": 0.5}, "--radius_shrinking=0.5 is for --method=ftp"),
        ({"radii_steps": 0}, "--radii_steps=0 is out of range"),
        ({"shard_parameters": True}, "--shard_parameters"),
    ],
)
def test_what_tpgm_cannot_do_is_refused(changes, named):
    with pytest.raises(UserError, match=named):
        validate(FinetuneConfig(method="tpgm", **changes))
