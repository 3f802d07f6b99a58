"""A whole run on a folder of photographs: training, evaluation, prediction, going on from its result."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from photos import COLOURS, write_photos
from PIL import Image

import finetune_jax
from finetune_jax import data as datasets
from finetune_jax import models
from finetune_jax.algorithms import losses
from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.decode import Preprocessing, read_image
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.files.run_directory import RunDirectory, data_config_of
from finetune_jax.models.card import read_best
from finetune_jax.runs import evaluate, finetune
from finetune_jax.training.methods.registry import METHODS


@pytest.fixture(scope="module")
def one():
    return Replicas((jax.devices()[0],))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    photos = write_photos(root / "photos")
    return FinetuneConfig(
        dataset=f"folder:{photos}",
        cache_dir=str(root / "cache"),
        image_size=16,
        batch_size=12,
        epochs=2,
        learning_rate=0.02,
    )


@pytest.fixture(scope="module")
def finished(base, one, tmp_path_factory):
    """A run of standard fine-tuning from the bundled weights, and its summary."""
    workdir = tmp_path_factory.mktemp("runs") / "standard"
    return workdir, finetune.run(dataclasses.replace(base, workdir=str(workdir)), one)


def test_a_run_leaves_everything_that_was_promised(finished):
    workdir, summary = finished
    names = {path.name for path in workdir.iterdir()}
    assert {
        "flags.json",
        "metrics.csv",
        "tensorboard",
        "checkpoints",
        "summary.json",
        "report.html",
        "training.png",
        "confusion.png",
    } <= names
    assert json.loads((workdir / "summary.json").read_text()) == summary
    assert summary["test_accuracy"] == 1.0  # three plain colours
    assert summary["images"] == {"train": 46, "validation": 3, "test": 11}
    assert summary["epochs_trained"] == 2
    assert summary["parameters_trained"] == summary["parameters"]


def test_metrics_have_a_row_per_epoch_and_the_best_one_was_chosen(finished):
    workdir, summary = finished
    rows = RunDirectory(workdir).read_metrics()
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    accuracies = [float(row["validation_accuracy"]) for row in rows]
    assert accuracies[summary["best_epoch"] - 1] == max(accuracies)


def test_a_finished_run_is_not_trained_again(finished, base, one, compilations):
    workdir, summary = finished
    assert finetune.run(dataclasses.replace(base, workdir=str(workdir)), one) == summary
    assert compilations.count == 0


def test_a_run_directory_predicts_from_files_and_arrays_alike(finished, base):
    workdir, _ = finished
    predictor = finetune_jax.load(workdir)
    assert predictor.class_names == tuple(COLOURS)
    folder = base.dataset.removeprefix("folder:")
    paths = [f"{folder}/{name}/00.png" for name in COLOURS]
    probabilities = predictor(paths)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert [predictor.class_names[i] for i in probabilities.argmax(1)] == list(COLOURS)
    np.testing.assert_array_equal(predictor([read_image(path) for path in paths]), probabilities)
    np.testing.assert_allclose(predictor(paths[1]), probabilities[1:2], rtol=1e-5)
    assert predictor.embed(paths).shape == (3, 96)


def test_prediction_equals_the_network_run_by_hand(finished, base):
    workdir, _ = finished
    card, variables = read_best(workdir)
    path = base.dataset.removeprefix("folder:") + "/leaf/03.png"
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((18, 18), Image.Resampling.BICUBIC).crop((1, 1, 17, 17))
    pixels = (np.asarray(resized, np.float32) / 255 - np.array(card.mean)) / np.array(card.std)
    logits = card.network().apply(variables, pixels[None].astype(np.float32))
    expected = np.exp(logits) / np.exp(logits).sum()
    plain = finetune_jax.load(workdir, calibrated=False)
    np.testing.assert_allclose(plain(path), expected, rtol=1e-3, atol=1e-5)
    scaled = np.exp(np.asarray(logits, np.float64) / card.temperature)
    assert card.temperature != 1
    np.testing.assert_allclose(finetune_jax.load(workdir)(path), scaled / scaled.sum(), rtol=1e-3, atol=1e-5)


def test_measuring_again_gives_the_summary_of_the_run(finished, one):
    workdir, summary = finished
    config = data_config_of(workdir)
    result = evaluate.measure(workdir, config, one, split="test", protocol="classification")
    assert result["scores"]["accuracy"] == summary["test_accuracy"]
    assert result["scores"]["cross-entropy"] == pytest.approx(summary["test_loss"], rel=1e-5)
    source = datasets.load_source(config, silent=True)
    counts = np.bincount(source.splits["test"].labels)
    assert result["images_per_class"] == dict(zip(source.class_names, counts.tolist(), strict=True))
    assert np.trace(result["confusion"]) == round(summary["test_accuracy"] * counts.sum())


def test_measuring_retrieval_gives_recalls(finished, one):
    workdir, _ = finished
    config = dataclasses.replace(data_config_of(workdir), ks=(1, 4))
    result = evaluate.measure(workdir, config, one, split="train", protocol="retrieval")
    assert result["scores"]["Recall@1"] <= result["scores"]["Recall@4"]
    assert result["scores"]["Recall@1"] > 0.9


def test_measuring_on_unknown_classes_names_them(finished, one, tmp_path):
    workdir, _ = finished
    photos = write_photos(tmp_path / "photos", per_class=8)
    (photos / "sky").rename(photos / "sea")
    config = dataclasses.replace(
        data_config_of(workdir), dataset=f"folder:{photos}", cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(UserError, match=r"does not know the classes sea"):
        evaluate.measure(workdir, config, one, split="test", protocol="classification")


def test_a_run_is_a_start_for_another_one(finished):
    workdir, _ = finished
    network, variables = models.load_pretrained(str(workdir))
    assert (network.architecture, network.num_classes) == ("resnet26", 3)
    _, best = read_best(workdir)
    for ours, theirs in zip(jax.tree.leaves(variables), jax.tree.leaves(best), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("settings", [{"method": "feature_extractor"}, {"method": "last_k", "k": 2}])
def test_frozen_parts_of_a_run_are_bit_identical_to_the_pretrained_ones(settings, base, one, tmp_path):
    config = dataclasses.replace(base, workdir=str(tmp_path / "run"), epochs=1, **settings)
    summary = finetune.run(config, one)
    _, variables = read_best(tmp_path / "run")
    network, origin = models.load_pretrained("resnet26_cifar10")
    trained = METHODS[config.method].trained_parts(config, network)
    assert summary["parameters_trained"] < summary["parameters"]
    for kind in ("params", "batch_stats"):
        for name in network.part_names:
            same = all(
                np.array_equal(a, b)
                for a, b in zip(
                    jax.tree.leaves(variables[kind][name]), jax.tree.leaves(origin[kind][name]), strict=False
                )
            )
            assert same == (name not in trained), f"{kind} of {name}"


def test_training_from_scratch_starts_from_other_weights(base, one, tmp_path):
    config = dataclasses.replace(
        base, workdir=str(tmp_path / "run"), method="scratch", seed=5, epochs=1, learning_rate=1e-6
    )
    finetune.run(config, one)
    _, variables = read_best(tmp_path / "run")
    _, origin = models.load_pretrained("resnet26_cifar10")
    ours, theirs = (v["params"]["block_05"]["conv1"]["kernel"] for v in (variables, origin))
    assert ours.shape == theirs.shape
    assert abs(np.corrcoef(np.ravel(ours), np.ravel(theirs))[0, 1]) < 0.05


def test_bfloat16_streaming_balancing_and_two_devices_go_together(base, tmp_path):
    config = dataclasses.replace(
        base,
        workdir=str(tmp_path / "run"),
        bfloat16=True,
        sync_batch_norm=True,
        balanced_sampling=True,
        device_data_gb=0.0,
        augmentation="pad_crop_flip",
        select_on="test",
        epochs=3,
    )
    summary = finetune.run(config, Replicas(tuple(jax.devices()[:2])))
    assert (summary["devices"], summary["selected_on"]) == (2, "test")
    assert summary["test_accuracy"] > 0.8
    _, variables = read_best(tmp_path / "run")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


def test_crops_in_proportion_do_not_depend_on_devices_or_streaming(base, one, tmp_path):
    losses = []
    for number, replicas in enumerate((one, Replicas(tuple(jax.devices()[:2])))):
        config = dataclasses.replace(
            base,
            workdir=str(tmp_path / str(number)),
            method="feature_extractor",
            augmentation="random_resized_crop",
            device_data_gb=0.0 if number else 2.0,
            sync_batch_norm=True,  # of the head, which is trained
            epochs=1,
        )
        finetune.run(config, replicas)
        losses += [float(row["train_loss"]) for row in RunDirectory(tmp_path / str(number)).read_metrics()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    card, _ = read_best(tmp_path / "0")
    assert card.preprocessing == Preprocessing(16, 18, "shorter_side")


def test_more_epochs_and_new_rates_compile_nothing_more(base, one, tmp_path, compilations):
    counts = []
    for epochs in (1, 3):
        jax.clear_caches()
        before = compilations.count
        config = dataclasses.replace(
            base, workdir=str(tmp_path / str(epochs)), method="feature_extractor", epochs=epochs
        )
        finetune.run(config, one)
        counts.append(compilations.count - before)
    assert counts[0] == counts[1]


def test_class_weights_are_one_on_average_over_the_images():
    labels = np.array([0] * 6 + [1] * 3 + [3])
    weights = losses.balanced_class_weights(np.bincount(labels, minlength=5))
    np.testing.assert_allclose(weights, [10 / 18, 10 / 9, 0, 10 / 3, 0], rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 64}, r"--batch_size=64 is more than the 46 training images"),
        ({"workdir": ""}, r"--workdir is empty"),
        ({"method": "last_k", "k": 13}, r"--k=13: resnet26 has only 12 blocks"),
        ({"network": "resnet18"}, r"--network=resnet18"),
        ({"width": 0.5}, r"--width=0.5 contradicts --pretrained=resnet26_cifar10, which has width 0.375"),
        ({"validation_fraction": 0.999}, r"no training images"),
    ],
)
def test_settings_that_do_not_go_with_data_or_network_are_named(changes, named, base, one, tmp_path):
    config = dataclasses.replace(base, **{"workdir": str(tmp_path / "run"), **changes})
    with pytest.raises(UserError, match=named):
        finetune.run(config, one)
    # The corrected command may use the same directory.
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": 0}, "--epochs=0"),
        ({"k": 2}, "--k=2 is for --method=last_k"),
        ({"frozen_norm": "train"}, "--frozen_norm=train has no meaning with --method=standard"),
        (
            {"early_stopping": 3, "select_on": "last"},
            "--early_stopping=3 has no meaning with --select_on=last",
        ),
        ({"learning_rate": -0.1}, "--learning_rate=-0.1"),
        ({"momentum": 1.0}, "--momentum=1.0"),
        ({"method": "fastest"}, "--method=fastest"),
        ({"alpha": 3.0}, "--alpha=3.0 is for --method=autolr and has no meaning with --method=standard"),
        ({"method": "autolr", "threshold": 1.5}, "--threshold=1.5 is out of range"),
        ({"method": "autolr", "alpha": 0.0}, "--alpha=0.0 is out of range"),
        ({"method": "autolr", "beta": -1.0}, "--beta=-1.0 is out of range"),
        ({"method": "autolr", "threshold_decay": 0.0}, "--threshold_decay=0.0 is out of range"),
        ({"method": "autolr", "threshold_floor": -0.1}, "--threshold_floor=-0.1 is out of range"),
        ({"method": "autolr", "max_trials": 0}, "--max_trials=0 is out of range"),
        ({"method": "autolr", "layer_decay": 0.7}, "--layer_decay contradicts --method=autolr"),
        ({"layer_decay": 0.7, "discriminative_ratio": 10.0}, "give one"),
        ({"discriminative_ratio": 0.5}, "--discriminative_ratio=0.5"),
        ({"cycles": 3}, "--cycles=3 is for --schedule=cyclic or sgdr"),
        ({"loss": "proxy_anchor"}, "--loss=proxy_anchor is for --protocol=retrieval"),
        ({"optimizer": "adamw", "momentum": 0.5}, "--momentum=0.5 is for --optimizer=sgd"),
        ({"protocol": "retrieval", "ks": (2,)}, "--retrieval_score=recall_at_1 needs 1 among --ks=2"),
        ({"ks": (1,)}, "--ks=1 is for --protocol=retrieval"),
        ({"protocol": "retrieval", "ks": (0,)}, "--ks=0 is out of range"),
        ({"drop_epochs": (3,)}, "--drop_epochs=3 is for --schedule=step"),
        ({"schedule": "step", "drop_epochs": (5, 3)}, "--drop_epochs=5,3"),
        ({"balanced_sampling": True, "class_weights": "balanced"}, "--balanced_sampling and --class_weights"),
        ({"method": "feature_extractor", "pretrained": "none"}, "--method=feature_extractor needs weights"),
        ({"validation_fraction": 0.6, "test_fraction": 0.5}, "leave no training images"),
    ],
)
def test_settings_that_contradict_each_other_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        validate(dataclasses.replace(FinetuneConfig(), **changes))
