"""Runs of every method with a transformer of tokens and with a network whose norms keep no statistics."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from photos import COLOURS, MORE_COLOURS, write_photos
from weights import random_variables

import finetune_jax
from finetune_jax import models
from finetune_jax.config import methods
from finetune_jax.config.recipes import recipe
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.files.weight_files import read_write
from finetune_jax.runs import export, finetune

NAME = "vit_tiny_patch16_224"
WIDTH = 0.34  # one head


def write_weights(folder: Path, name: str, width: float, **settings: Any) -> Path:
    """A file of random weights with the names of timm."""
    network = models.create(name, 7, width=width, **settings)
    variables = random_variables(network)
    file = folder / f"{name}.safetensors"
    read_write.write(file, models.to_torch_state(network, variables))
    return file


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    root = tmp_path_factory.mktemp("photos")
    return FinetuneConfig(
        dataset=f"folder:{write_photos(root / 'photos')}",
        cache_dir=str(root / "cache"),
        pretrained=str(write_weights(root, NAME, WIDTH, image_size=48)),
        network=NAME,
        width=WIDTH,
        image_size=32,
        batch_size=12,
        epochs=1,
        prune_depth=10,
        drop_path=0.3,
    )


def run(config: FinetuneConfig, workdir: Path, **settings: Any) -> dict[str, Any]:
    config = dataclasses.replace(config, workdir=str(workdir), **settings)
    return finetune.run(config, Replicas((jax.devices()[0],)))


@pytest.mark.parametrize("method", methods.BY_NAME)
def test_every_method_trains_a_transformer_and_predicts_from_its_directory(
    photos: FinetuneConfig, method: str, tmp_path: Path
) -> None:
    defaults = FinetuneConfig()
    changed = {
        key: value for key, value in dataclasses.asdict(photos).items() if value != getattr(defaults, key)
    }
    config = dataclasses.replace(recipe(method), **changed, method=method, k=1)
    special: dict[str, dict[str, Any]] = {
        "scratch": {"pretrained": "none"},
        "random_policy": {"prune_depth": 8},
    }
    summary = run(config, tmp_path, **special.get(method, {}))
    assert (summary["network"], summary["blocks"]) == (
        NAME,
        12 - (special.get(method, {}).get("prune_depth", 10)),
    )
    predictor = finetune_jax.load(tmp_path)
    folder = photos.dataset.removeprefix("folder:")
    assert np.isfinite(predictor(f"{folder}/leaf/00.png")).all()
    assert predictor.embed([f"{folder}/leaf/00.png"]).shape == (1, 64)


def test_a_retrieval_run_keeps_the_norm_and_pooling_of_the_weights(
    photos: FinetuneConfig, tmp_path: Path
) -> None:
    folder = str(write_photos(tmp_path / "more", colours=COLOURS | MORE_COLOURS))
    settings = {"protocol": "retrieval", "rematerialise": True, "dataset": f"folder:{folder}"}
    summary = run(photos, tmp_path / "run", **settings)
    assert 0 <= summary["test_recall_at_1"] <= 1
    assert finetune_jax.load(tmp_path / "run").embed([f"{folder}/leaf/00.png"]).shape == (1, 64)


def test_a_pooling_that_was_not_trained_starts_from_the_trained_norm(
    photos: FinetuneConfig, tmp_path: Path
) -> None:
    summary = run(photos, tmp_path, pool="both", learning_rate=1e-6, dropout=0.5)
    assert summary["network"] == NAME
    folder = photos.dataset.removeprefix("folder:")
    assert finetune_jax.load(tmp_path).embed([f"{folder}/leaf/00.png"]).shape == (1, 128)


def test_runs_go_on_from_a_run_directory_at_another_size(photos: FinetuneConfig, tmp_path: Path) -> None:
    run(photos, tmp_path / "first")
    changed = {"pretrained": str(tmp_path / "first"), "network": "", "width": 1.0, "prune_depth": 0}
    summary = run(photos, tmp_path / "second", **changed, image_size=48)
    assert summary["blocks"] == 2
    assert finetune_jax.load(tmp_path / "second").card.options == {"image_size": 48, "pool": "token"}
    exported(tmp_path / "second", "vit.encoder.layer.1.attention.attention.query.weight")


def exported(run: Path, name: str) -> None:
    """Every form of a run computes the same, and weights have names of transformers where those are asked for."""
    pytest.importorskip("onnxruntime")
    for form, names in (("onnx", "timm"), ("stablehlo", "timm"), ("safetensors", "hugging_face")):
        written = export.export(run, run / form, format=form, names=names)
        assert written.agreement == 1
    assert name in read_write.read(run / "safetensors")


def test_runs_in_lockstep_are_those_alone(photos: FinetuneConfig, tmp_path: Path) -> None:
    configs = [
        dataclasses.replace(photos, learning_rate=rate, workdir=str(tmp_path / str(rate)))
        for rate in (0.01, 0.1)
    ]
    together = finetune.train_in_lockstep(configs, Replicas((jax.devices()[0],)))
    alone = run(photos, tmp_path / "alone", learning_rate=0.1)
    assert together[1]["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-4)


def test_convnext_trains_with_stochastic_depth(photos: FinetuneConfig, tmp_path: Path) -> None:
    file = write_weights(tmp_path, "convnext_atto", 0.1)
    changed = {"pretrained": str(file), "network": "convnext_atto", "width": 0.1, "prune_depth": 9}
    summary = run(photos, tmp_path / "run", **changed, method="autolr", max_trials=2)
    assert (summary["network"], summary["blocks"]) == ("convnext_atto", 3)
    exported(tmp_path / "run", "convnext.encoder.stages.1.layers.0.dwconv.weight")


def test_sizes_that_patches_do_not_divide_are_refused_by_name(photos: FinetuneConfig, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--image_size=40: the patches of vit_tiny_patch16_224 are 16 .* 32 is near"
    ):
        run(photos, tmp_path, image_size=40)


def test_networks_without_an_option_refuse_it(photos: FinetuneConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--drop_path=0\.3 is not for resnet26"):
        run(photos, tmp_path, pretrained="none", network="resnet26")
