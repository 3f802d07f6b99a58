"""Runs of LoRA, norms and biases: few parameters are trained, and prediction takes the merged network."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

import finetune_jax
from finetune_jax import models
from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.digits import read
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models.card import read_best
from finetune_jax.models.weights import pretrained
from finetune_jax.runs import finetune

ONE = Replicas(jax.devices()[:1])
CONFIG = FinetuneConfig(dataset="digits", epochs=2, learning_rate=0.05, test_fraction=0.8, batch_size=32)


@pytest.mark.parametrize("method", ["lora", "norms", "biases"])
def test_a_method_of_few_parameters_trains_and_predicts_as_a_plain_network(
    method: str, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, method=method, workdir=str(tmp_path / method), layer_decay=0.9)
    if method == "lora":
        config = dataclasses.replace(config, lora_rank=2)
    summary = finetune.run(config, ONE)
    assert summary["parameters_trained"] < 0.25 * summary["parameters"]
    assert summary["test_accuracy"] > 0.3
    card, variables = read_best(tmp_path / method)
    assert not card.composition
    network, origin = pretrained.load_pretrained("resnet26_cifar10", 10)
    assert card.network().block_names == network.block_names
    moved = variables["params"]["block_03"]["conv1"]["kernel"]
    same = np.array_equal(moved, origin["params"]["block_03"]["conv1"]["kernel"])
    assert same == (method != "lora")
    images = np.stack([read().splits["train"].read(i) for i in range(4)])
    probabilities = finetune_jax.load(tmp_path / method)(list(images))
    assert probabilities.shape == (4, 10)
    assert finetune.run(config, ONE) == summary


def test_autolr_tunes_the_rates_of_adapters_which_are_saved_alone(tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG,
        method="autolr",
        adapters="lora",
        lora_rank=2,
        lora_targets=("conv1",),
        save_adapter=True,
        head_learning_rate=0.05,
        max_trials=2,
        workdir=str(tmp_path),
    )
    summary = finetune.run(config, ONE)
    passes = RunDirectory(tmp_path).read_passes()
    assert len(passes) > 2, "the first trial with one rate for all blocks cannot be sorted well enough"
    rates = [float(passes[-1][f"rate/block_{number:02d}"]) for number in range(1, 13)]
    assert len(set(rates)) > 6
    assert all(float(passes[0][f"variation/block_{number:02d}"]) > 0 for number in range(1, 13))
    assert "rate/stem" not in passes[0]
    assert summary["parameters_trained"] < 0.25 * summary["parameters"]
    # The adapters on top of the weights that they were trained on are the network that predicts.
    _, variables = read_best(tmp_path)
    network, origin = pretrained.load_pretrained("resnet26_cifar10", 10)
    added = models.add_adapter(network, origin, tmp_path / "adapter")
    jax.tree.map(
        lambda found, merged: np.testing.assert_allclose(found, merged, atol=1e-6),
        added["params"],
        variables["params"],
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"method": "autolr", "lora_rank": 4}, "--lora_rank has no meaning with --method=autolr alone"),
        ({"method": "standard", "adapters": "lora"}, "--adapters=lora is for --method=lora or autolr"),
        ({"method": "standard", "save_adapter": True}, "--save_adapter=true is for --method=lora or autolr"),
        (
            {"method": "autolr", "adapters": "lora", "pretrained": "none"},
            "--adapters=lora needs weights to adapt",
        ),
        ({"method": "lora", "lora_rank": 0}, "--lora_rank=0 is out of range"),
    ],
)
def test_settings_of_adapters_that_have_no_effect_are_refused(settings: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        validate(dataclasses.replace(CONFIG, **settings))
