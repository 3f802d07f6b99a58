"""Studies of real runs: trained once, remembered when they diverged, drawn by Grad-CAM."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest
from made_up_study import BASE
from photos import write_photos

from finetune_jax import data as datasets
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import Diverged, UserError
from finetune_jax.runs import finetune
from finetune_jax.studies import gamma
from finetune_jax.studies.runs import Runs

DRAWS_FIGURES = True


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    root = tmp_path_factory.mktemp("photos")
    return FinetuneConfig(
        dataset=f"folder:{write_photos(root / 'photos')}",
        cache_dir=str(root / "cache"),
        image_size=16,
        batch_size=12,
        epochs=1,
        method="autolr",
        learning_rate=1e-3,
        prune_depth=8,
        keep_trials=True,
    )


@pytest.fixture(scope="module")
def study(photos: FinetuneConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Runs, dict[str, Any]]:
    runs = Runs(tmp_path_factory.mktemp("study"), Replicas((jax.devices()[0],)))
    return runs, dict(runs(photos, "first"))


def test_a_finished_run_of_a_study_is_not_trained_again(
    study: tuple[Runs, dict[str, Any]], photos: FinetuneConfig, compilations: Any
) -> None:
    runs, summary = study
    assert runs(photos, "first") == summary
    assert compilations.count == 0


def test_runs_of_one_study_may_have_different_numbers_of_images(
    study: tuple[Runs, dict[str, Any]], photos: FinetuneConfig
) -> None:
    runs, summary = study
    few = runs(dataclasses.replace(photos, images_per_class=4), "few")
    assert 0 < few["images"]["train"] < summary["images"]["train"]
    assert few["images"]["test"] == summary["images"]["test"]


def test_a_run_that_diverged_is_remembered(
    study: tuple[Runs, dict[str, Any]], photos: FinetuneConfig, compilations: Any
) -> None:
    runs, _ = study
    wild = dataclasses.replace(photos, method="standard", keep_trials=False, learning_rate=1e30)
    with pytest.raises(Diverged, match="not finite"):
        runs(wild, "wild")
    before = compilations.count
    with pytest.raises(Diverged, match="not finite"):
        runs(wild, "wild")
    assert compilations.count == before


def test_gamma_is_the_ratio_of_variations_without_their_rates(study: tuple[Runs, dict[str, Any]]) -> None:
    runs, _ = study
    passes = runs.passes("first")
    assert passes[0]["accepted"] == "0"
    found = gamma.of_epoch(runs.root / "runs" / "first", 1)
    assert [row["block"] for row in found] == ["block_01", "block_02", "block_03", "block_04"]
    first, last = passes[0], passes[-1]
    for row in found:
        name = row["block"]
        expected = (float(last[f"variation/{name}"]) / float(last[f"rate/{name}"])) / (
            float(first[f"variation/{name}"]) / float(first[f"rate/{name}"])
        )
        assert row["gamma"] == pytest.approx(expected, rel=1e-5)
        assert 0.3 < row["gamma"] < 3
    with pytest.raises(UserError, match="epoch 2 has 0 trials"):
        gamma.of_epoch(runs.root / "runs" / "first", 2)


def test_gamma_is_not_computed_from_another_measure_of_variation(
    study: tuple[Runs, dict[str, Any]], tmp_path: Path
) -> None:
    run = shutil.copytree(study[0].root / "runs" / "first", tmp_path / "run")
    recorded = json.loads((run / "flags.json").read_text())
    (run / "flags.json").write_text(json.dumps(recorded | {"variation": "rms"}))
    with pytest.raises(UserError, match="measured its trials with --variation=rms, and γ is of AutoLR's own"):
        gamma.of_epoch(run, 1)


def test_grad_cam_of_a_run_its_blocks_and_its_trials(
    study: tuple[Runs, dict[str, Any]], photos: FinetuneConfig
) -> None:
    from finetune_jax.runs import explain

    run = study[0].root / "runs" / "first"
    paths = [Path(photos.dataset.removeprefix("folder:")) / name / "00.png" for name in ("leaf", "sky")]
    assert explain.of_blocks(run, paths)[:4] == b"\x89PNG"
    assert explain.of_runs([run, run], paths)[:4] == b"\x89PNG"
    found = explain.of_trials(run, paths, 1, ("block_02",))
    assert list(found) == ["block_02"]
    with pytest.raises(UserError, match=r"--blocks: .* has no block_09, only block_01 to block_04"):
        explain.of_blocks(run, paths, ("block_09",))
    with pytest.raises(UserError, match="has no epoch 7"):
        explain.of_trials(run, paths, 7)


def test_results_are_written_whole(study: tuple[Runs, dict[str, Any]]) -> None:
    runs, _ = study
    runs.write_files({"results.txt": "a table", "map.png": b"png"})
    assert (runs.root / "results.txt").read_text() == "a table"
    assert (runs.root / "map.png").read_bytes() == b"png"
    assert not [path for path in runs.root.iterdir() if path.name.endswith(".tmp")]


def test_retrieval_sources_of_a_study_hold_no_test_class_in_training() -> None:
    source = datasets.load_source(dataclasses.replace(BASE, protocol="retrieval"), silent=True)
    trained = {*source.splits["train"].labels.tolist(), *source.splits["validation"].labels.tolist()}
    assert trained.isdisjoint(source.splits["test"].labels.tolist())


def test_a_config_that_a_study_has_trained_before_is_not_trained_again(tmp_path, monkeypatch):
    trained = []

    def run(config, replicas, after_epoch=None, printed_lines=None):
        trained.append(Path(config.workdir).relative_to(tmp_path / "runs").as_posix())
        directory = Path(config.workdir)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "passes.csv").write_text(f"step,epoch\n1,{config.seed}\n")
        return {"seed": config.seed}

    monkeypatch.setattr(finetune, "run", run)
    runs = Runs(tmp_path, Replicas((jax.devices()[0],)))
    assert runs(FinetuneConfig(seed=1), "select/a") == runs(FinetuneConfig(seed=1), "report/a") == {"seed": 1}
    runs(FinetuneConfig(seed=2), "report/b")
    # The directory's own run finds its summary there and does not train again.
    assert trained == ["select/a", "select/a", "report/b"]
    assert [runs.passes(name)[0]["epoch"] for name in ("select/a", "report/a", "report/b")] == ["1", "1", "2"]
