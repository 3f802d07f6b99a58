"""Runs of LoRA, norms and biases: few parameters are trained, and prediction takes the merged network."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

import finetune_jax
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.digits import read
from finetune_jax.devices.replicas import Replicas
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
