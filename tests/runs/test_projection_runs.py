"""Runs of Fast Trainable Projection: inside their balls, exact after a kill, the same on several devices."""

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
from finetune_jax.runs import finetune
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


def test_a_run_that_breaks_off_goes_on_to_the_same_bits(config, undisturbed, tmp_path, monkeypatch):
    save = saving.save_state

    def save_and_break(*arguments, **settings):
        save(*arguments, **settings)
        raise RuntimeError("killed")

    monkeypatch.setattr(saving, "save_state", save_and_break)
    with pytest.raises(RuntimeError, match="killed"):
        weights_of(config, tmp_path)
    monkeypatch.undo()
    again = weights_of(config, tmp_path)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(undisturbed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_number_of_devices_changes_rounding_alone(config, tmp_path):
    synchronised = dataclasses.replace(config, sync_batch_norm=True, epochs=1)
    ends = [weights_of(synchronised, tmp_path / str(devices), devices) for devices in (1, 4)]
    for a, b in zip(*(jax.tree.leaves(end) for end in ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("optimizer", ["prodigy", "schedule_free_adamw"])
def test_optimisers_that_look_back_are_refused(optimizer):
    with pytest.raises(UserError, match=f"--optimizer={optimizer} contradicts --method=ftp"):
        validate(FinetuneConfig(method="ftp", optimizer=optimizer, learning_rate=1.0))
