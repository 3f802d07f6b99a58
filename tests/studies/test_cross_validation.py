"""Cross-validation: every image tested once by a run that has not seen it."""

import csv
import io
import json
from typing import Any

import jax
import numpy as np
import pytest
from made_up_study import BASE, MadeUp
from photos import write_photos

from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.reports import cross_validation as report
from finetune_jax.reports import study_report
from finetune_jax.studies import cross_validation as study
from finetune_jax.studies.runs import Runs


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[FinetuneConfig, Runs, dict[str, Any]]:
    root = tmp_path_factory.mktemp("folds")
    config = FinetuneConfig(
        dataset=f"folder:{write_photos(root / 'photos', per_class=8)}",
        cache_dir=str(root / "cache"),
        image_size=16,
        batch_size=4,
        epochs=1,
        method="feature_extractor",
        prune_depth=8,
        folds=2,
    )
    runs = Runs(root / "study", Replicas((jax.devices()[0],)))
    return config, runs, study.run(config, runs, lambda name: rows_of(runs, name))


def rows_of(runs: Runs, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(runs.read(name, study.PREDICTIONS).decode())))


def test_every_image_is_tested_once_and_the_scores_are_those_of_its_predictions(
    studied: tuple[FinetuneConfig, Runs, dict[str, Any]],
) -> None:
    _, _, result = studied
    rows = result["out_of_fold"]
    assert len({row["image"] for row in rows}) == len(rows) == 24
    for fold in result["folds"]:
        right = [row["label"] == row["prediction"] for row in rows if row["fold"] == str(fold["fold"])]
        assert fold["test"]["test_accuracy"] == pytest.approx(np.mean(right))
    for row in rows:
        of_classes = {name: float(row[f"probability_{name}"]) for name in ("apple", "leaf", "sky")}
        assert sum(of_classes.values()) == pytest.approx(1, abs=1e-5)
        assert max(of_classes, key=of_classes.__getitem__) == row["prediction"]


def test_a_study_that_was_stopped_goes_on_without_training_a_fold_twice(
    studied: tuple[FinetuneConfig, Runs, dict[str, Any]], compilations: Any
) -> None:
    config, runs, result = studied
    again = Runs(runs.root, runs.replicas)
    assert study.run(config, again, lambda name: rows_of(again, name)) == result
    assert compilations.count == 0
    with pytest.raises(UserError, match="remove summary"):
        runs.read("fold_01", "no_such_file")


def test_mean_and_spread_are_of_the_folds() -> None:
    scores = [0.5, 0.7, 0.9]
    train = MadeUp(lambda config: scores[config.fold - 1])

    def summary(config: FinetuneConfig, name: str) -> dict[str, Any]:
        images = {"train": 20, "validation": 2, "test": 10}
        return {**train(config, name), "images": images, "best_epoch": 1}

    result = study.run(FinetuneConfig(**{**vars(BASE), "folds": 3}), summary, lambda name: [{"image": name}])
    assert [config.fold for config in train.configs.values()] == [1, 2, 3]
    made = report.report(result)
    assert "70.00 ± 20.00 %" in study_report.text(made)
    assert made.data[report.OUT_OF_FOLD] == "fold,image\n1,fold_01\n2,fold_02\n3,fold_03\n"
    assert "out_of_fold" not in json.loads(made.data["results.json"])
    assert "out_of_fold.csv" in study_report.files(made)["report.html"]


def test_folds_that_are_none_are_refused() -> None:
    for settings, message in (
        ({"folds": 1}, "at least 2"),
        ({"folds": 3, "fold": 4}, "--fold=4 is none of --folds=3"),
        ({"fold": 2}, "which is not given"),
        ({"folds": 3, "protocol": "retrieval"}, "--folds=3 is for --protocol=classification"),
    ):
        with pytest.raises(UserError, match=message):
            validate(FinetuneConfig(**settings))
