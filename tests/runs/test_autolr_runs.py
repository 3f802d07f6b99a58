"""Runs of AutoLR with networks: compiled once, pruned, on two devices."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest
from photos import write_photos

from finetune_jax.config.recipes import recipe
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.runs import finetune
from finetune_jax.training import rates as training_rates


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    root = tmp_path_factory.mktemp("photos")
    return dataclasses.replace(
        recipe("autolr"),
        dataset=f"folder:{write_photos(root / 'photos')}",
        cache_dir=str(root / "cache"),
        image_size=16,
        batch_size=12,
        epochs=3,
        prune_depth=8,
    )


def test_trials_and_epochs_compile_nothing(photos: FinetuneConfig, tmp_path: Path, compilations: Any) -> None:
    counts = []
    for name, settings in {"few": {"max_trials": 1}, "many": {"threshold": 1.0, "max_trials": 4}}.items():
        jax.clear_caches()
        before = compilations.count
        config = dataclasses.replace(photos, workdir=str(tmp_path / name), **settings)
        summary = finetune.run(config, Replicas((jax.devices()[0],)))
        counts.append((summary["passes"], compilations.count - before))
    assert counts[0][0] == 3
    assert counts[1][0] > 3
    # Throwing a trial away puts back the position of the epoch's start; nothing else is new.
    assert counts[1][1] <= counts[0][1]


def test_a_pruned_network_is_trained_on_two_devices_and_predicts_from_its_directory(
    photos: FinetuneConfig, tmp_path: Path
) -> None:
    import finetune_jax

    config = dataclasses.replace(
        photos, workdir=str(tmp_path), optimizer="adamw", learning_rate=3e-3, epochs=4
    )
    summary = finetune.run(config, Replicas(tuple(jax.devices()[:2])))
    assert (summary["blocks"], summary["devices"]) == (4, 2)
    assert summary["test_accuracy"] == 1.0
    predictor = finetune_jax.load(tmp_path)
    folder = photos.dataset.removeprefix("folder:")
    assert predictor(f"{folder}/leaf/00.png").argmax() == predictor.class_names.index("leaf")


def test_a_network_with_one_block_has_nothing_to_order(photos: FinetuneConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(photos, workdir=str(tmp_path), prune_depth=11)
    with pytest.raises(UserError, match="--method=autolr orders the blocks of a network, and here it has 1"):
        finetune.run(config, Replicas((jax.devices()[0],)))
    with pytest.raises(UserError, match="--prune_depth=12 leaves none of the 12 blocks"):
        finetune.run(dataclasses.replace(config, prune_depth=12), Replicas((jax.devices()[0],)))


def test_fixed_methods_have_the_rates_of_their_rule() -> None:
    parts = ("stem", "block_01", "block_02", "head")

    def rates(**settings: Any) -> dict[str, float]:
        config = FinetuneConfig(schedule="constant", learning_rate=0.1, **settings)
        return training_rates.fixed(config, parts).rates({}, 0)

    assert rates() == dict.fromkeys(parts, 0.1)
    assert list(rates(layer_decay=0.5).values()) == pytest.approx([0.0125, 0.025, 0.05, 0.1])
    assert list(rates(discriminative_ratio=1000.0).values()) == pytest.approx([1e-4, 1e-3, 1e-2, 0.1])
    assert rates(layer_decay=0.5, head_learning_rate=1.0)["head"] == 1.0


def test_the_step_schedule_drops_after_four_fifths_of_the_epochs() -> None:
    config = recipe("autolr")
    assert [training_rates.decay(config)(epoch) for epoch in (0, 39, 40, 49)] == pytest.approx(
        [1, 1, 0.2, 0.2]
    )
