"""Runs of LoRA, norms and biases: few parameters are trained, and prediction takes the merged network."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from photos import COLOURS, write_photos

import finetune_jax
from finetune_jax import models
from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.files import weight_files
from finetune_jax.files.run_directory import RunDirectory, data_config_of
from finetune_jax.models.card import read_best
from finetune_jax.models.compositions.adapted import LORA, AdaptedNetwork
from finetune_jax.models.weights import adapted_origin, adapter_files, pretrained
from finetune_jax.runs import evaluate, finetune, start
from finetune_jax.runs.from_adapter import of_adapter
from finetune_jax.training import tasks

ONE = Replicas(jax.devices()[:1])
CONFIG = FinetuneConfig(epochs=2, learning_rate=0.05, batch_size=12, image_size=16)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    root = tmp_path_factory.mktemp("adapted")
    dataset = f"folder:{write_photos(root / 'photos')}"
    return dataclasses.replace(CONFIG, dataset=dataset, cache_dir=str(root / "cache"))


@pytest.mark.parametrize("method", ["lora", "norms", "biases"])
def test_a_method_of_few_parameters_trains_and_predicts_as_a_plain_network(
    method: str, photos: FinetuneConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(photos, method=method, workdir=str(tmp_path / method), layer_decay=0.9)
    if method == "lora":
        config = dataclasses.replace(config, lora_rank=2)
    summary = finetune.run(config, ONE)
    assert summary["parameters_trained"] < 0.25 * summary["parameters"]
    assert summary["test_accuracy"] > 0.6
    card, variables = read_best(tmp_path / method)
    assert not card.composition
    network, origin = pretrained.load_pretrained("resnet26_cifar10", 3)
    assert card.network().block_names == network.block_names
    moved = variables["params"]["block_03"]["conv1"]["kernel"]
    same = np.array_equal(moved, origin["params"]["block_03"]["conv1"]["kernel"])
    assert same == (method != "lora")
    folder = photos.dataset.removeprefix("folder:")
    probabilities = finetune_jax.load(tmp_path / method)([f"{folder}/{name}/00.png" for name in COLOURS])
    assert probabilities.shape == (3, 3)
    assert finetune.run(config, ONE) == summary


def test_autolr_tunes_the_rates_of_adapters_which_are_saved_alone(
    photos: FinetuneConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        photos,
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
    network, origin = pretrained.load_pretrained("resnet26_cifar10", 3)
    added = models.add_adapter(network, origin, tmp_path / "adapter")
    jax.tree.map(assert_near, added, variables)
    card, used = of_adapter(str(tmp_path / "adapter"), "resnet26_cifar10")
    assert card == read_best(tmp_path)[0]
    jax.tree.map(assert_near, used, variables)
    measured = evaluate.measure(
        tmp_path, data_config_of(tmp_path), ONE, split="test", protocol="classification", network=(card, used)
    )
    assert measured["scores"]["accuracy"] == pytest.approx(summary["test_accuracy"], abs=1e-3)
    # A later run starts from them, with their head where it is asked for.
    later = dataclasses.replace(photos, add_adapter=str(tmp_path / "adapter"), keep_head=True)
    task = tasks.create(dataclasses.replace(later, task="classification"))
    begun = start.begin(later, start.load_origin(later), card.class_names, task, jax.random.key(0), 32)
    jax.tree.map(assert_near, begun.variables, variables)


def assert_near(found, expected) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_adapters_without_a_card_are_used_by_numbers_or_by_names(tmp_path: Path) -> None:
    weights, folder = "resnet26_cifar10", str(tmp_path)
    network, variables = pretrained.load_pretrained(weights, 3)
    model = AdaptedNetwork(network, LORA, rank=2)
    adapter_files.write(tmp_path, model, model.start(variables, jax.random.key(2)), weights)
    card, used = of_adapter(folder, weights)
    assert (card.class_names, card.num_outputs) == (("0", "1", "2"), 3)
    jax.tree.map(assert_near, used, variables)  # as fresh adapters change nothing
    names = ("cat", "dog", "owl")
    assert of_adapter(folder, weights, class_names=names)[0].class_names == names
    assert of_adapter(folder, weights, image_size=48)[0].preprocessing.image_size == 48
    with pytest.raises(UserError, match=r"--class_names names 2 classes, and .* has 3"):
        of_adapter(folder, weights, class_names=names[:2])
    with pytest.raises(UserError, match=r"needs --pretrained, .* which are resnet26_cifar10 by its own"):
        of_adapter(folder, "")
    state = weight_files.read(tmp_path / adapter_files.WEIGHTS)
    without_head = {name: value for name, value in state.items() if ".lora_" in name}
    weight_files.write(tmp_path / adapter_files.WEIGHTS, without_head)
    with pytest.raises(UserError, match="came without a head and so labels nothing"):
        of_adapter(folder, weights)


def test_cards_of_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    weights = "resnet26_cifar10"
    network, variables = pretrained.load_pretrained(weights, 3)
    model = AdaptedNetwork(network, LORA, rank=2)
    adapter_files.write(tmp_path, model, model.start(variables, jax.random.key(2)), weights)
    card, _ = of_adapter(str(tmp_path), weights)
    adapted_origin.write_card(tmp_path, card)
    with pytest.raises(UserError, match=r"--image_size=48 contradicts --add_adapter=.* at 32 pixels"):
        of_adapter(str(tmp_path), weights, image_size=48)
    adapted_origin.write_card(tmp_path, dataclasses.replace(card, architecture="resnet18"))
    with pytest.raises(
        UserError, match=r"is of a resnet18 of width .* with 12 blocks, and --pretrained=resn"
    ):
        of_adapter(str(tmp_path), weights)
    (tmp_path / adapted_origin.CARD).write_text("{}")
    with pytest.raises(UserError, match=r"card\.json cannot be used"):
        of_adapter(str(tmp_path), weights)


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
        (
            {"pretrained": "none", "add_adapter": "x"},
            "--add_adapter needs the weights that it was trained on",
        ),
        ({"method": "scratch", "add_adapter": "x"}, "--add_adapter=x has no meaning with --method=scratch"),
    ],
)
def test_settings_of_adapters_that_have_no_effect_are_refused(settings: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        validate(dataclasses.replace(CONFIG, **settings))
