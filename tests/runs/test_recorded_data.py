"""A run knows its images: it goes on with the same alone, and is measured on its own split."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from photos import write_photos

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data import record
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.files.run_directory import data_config_of
from finetune_jax.runs import evaluate, finetune, recorded_data
from finetune_jax.studies.runs import Runs


@pytest.fixture(scope="module")
def one():
    return Replicas((jax.devices()[0],))


@pytest.fixture(scope="module")
def began(one, tmp_path_factory):
    """A folder and a run of it, to be copied."""
    root = tmp_path_factory.mktemp("began")
    config = configured(root, write_photos(root / "photos"))
    finetune.run(config, one)
    return root


@pytest.fixture
def copy(began, tmp_path):
    """Photos and run of an earlier day, at the same paths relative to each other."""
    recorded_data._opened_once.cache_clear()
    shutil.copytree(began, tmp_path / "now")
    flags = tmp_path / "now" / "run" / "flags.json"
    flags.write_text(flags.read_text().replace(str(began), str(tmp_path / "now")))
    return tmp_path / "now"


def configured(root: Path, photos: Path, **changes) -> FinetuneConfig:
    config = FinetuneConfig(
        dataset=f"folder:{photos}",
        workdir=str(root / "run"),
        cache_dir=str(root / "cache"),
        pretrained="none",
        method="scratch",
        network="resnet26_policy",
        width=0.125,
        image_size=8,
        batch_size=12,
        epochs=1,
    )
    return dataclasses.replace(config, **changes)


def unfinished(root: Path) -> FinetuneConfig:
    """The run as if it was stopped before its end."""
    (root / "run" / "summary.json").unlink()
    return configured(root, root / "photos")


def measure(root: Path, one: Replicas, **options):
    config = data_config_of(root / "run")
    return evaluate.measure(root / "run", config, one, split="test", protocol="classification", **options)


def add(root: Path, count: int) -> None:
    write_photos(root / "more", per_class=count, seed=9)
    for path in (root / "more").rglob("*.png"):
        shutil.move(path, root / "photos" / path.parent.name / f"more{path.name}")
    shutil.rmtree(root / "more")


def test_a_run_keeps_the_record_of_its_images_and_its_digest(began):
    known = recorded_data.read(began / "run")
    summary = json.loads((began / "run" / "summary.json").read_text())
    resolved = json.loads((began / "run" / "flags.json").read_text())["resolved"]
    assert summary["data_digest"] == resolved["data_digest"] == known.digest
    assert summary["split_rule"] == resolved["split_rule"] == known.split_rule == 2
    assert {split: len(part.names) for split, part in known.splits.items()} == summary["images"]
    assert sum(summary["images"].values()) == 60


def test_a_run_goes_on_with_the_same_images_wherever_they_lie(copy, one):
    summary = finetune.run(unfinished(copy), one)
    assert summary["data_digest"] == recorded_data.read(copy / "run").digest


@pytest.mark.parametrize("ended", [False, True])
def test_other_images_are_refused_with_their_numbers_and_names(copy, one, ended):
    config = configured(copy, copy / "photos") if ended else unfinished(copy)
    add(copy, 2)
    (copy / "photos" / "leaf" / "03.png").unlink()
    before = (copy / "run" / "metrics.csv").read_text()
    with pytest.raises(
        UserError, match=r"6 added \(apple/more00\.png, .*1 removed \(leaf/03\.png\)"
    ) as caught:
        finetune.run(config, one)
    assert "\n" not in str(caught.value)
    assert (copy / "run" / "metrics.csv").read_text() == before


def test_other_classes_are_refused_as_such(copy, one):
    shutil.copytree(copy / "photos" / "sky", copy / "photos" / "aa")
    with pytest.raises(UserError, match="the data has other classes than when the run began: aa came"):
        finetune.run(unfinished(copy), one)


def test_a_run_is_measured_on_its_own_images_when_the_folder_has_grown(copy, one, capsys):
    before = measure(copy, one)
    add(copy, 10)
    after = measure(copy, one)
    assert after["scores"] == before["scores"]
    assert after["images"] == before["images"]
    assert after["data_digest"] == before["data_digest"]
    assert "30 added" in capsys.readouterr().err


def test_images_of_the_run_that_are_gone_are_named(copy, one):
    known = recorded_data.read(copy / "run")
    (copy / "photos" / known.splits["test"].names[0]).unlink()
    with pytest.raises(UserError, match=r"no longer holds the \d+ test images of the run: 1 were removed"):
        measure(copy, one)


def test_the_folder_as_it_is_now_may_be_measured_without_images_trained_on(copy, one):
    add(copy, 10)
    result = measure(copy, one, current_folder=True)
    known = recorded_data.read(copy / "run")
    assert result["images"] > len(known.splits["test"].names)
    # A split by the old rule moves images between train and test.
    content = record.to_bytes(
        dataclasses.replace(known, splits=known.splits | {"train": known.splits["test"]})
    )
    (copy / "run" / record.FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"was trained on \d+ of the \d+ test images.*--include_trained"):
        measure(copy, one, current_folder=True)
    assert measure(copy, one, current_folder=True, include_trained=True)["images"] == result["images"]


def test_a_run_of_an_earlier_version_keeps_its_split_and_goes_on(copy, one):
    old = configured(copy, copy / "photos", workdir=str(copy / "old"))
    flags = json.loads((copy / "run" / "flags.json").read_text())
    flags["resolved"] = {k: v for k, v in flags["resolved"].items() if k not in ("data_digest", "split_rule")}
    (copy / "old").mkdir()
    (copy / "old" / "flags.json").write_text(json.dumps(flags))
    summary = finetune.run(old, one)
    assert summary["split_rule"] == 1
    assert summary["images"] == {"train": 43, "validation": 5, "test": 12}
    known = recorded_data.read(copy / "old")
    result = evaluate.measure(
        copy / "old", data_config_of(copy / "old"), one, split="test", protocol="classification"
    )
    assert result["data_digest"] == known.digest
    (copy / "old" / record.FILE).unlink()
    with pytest.raises(UserError, match="before runs recorded their images"):
        evaluate.measure(
            copy / "old",
            data_config_of(copy / "old"),
            one,
            split="test",
            protocol="classification",
            current_folder=True,
        )


def test_the_runs_of_a_study_have_the_same_images(copy, one):
    config = configured(copy, copy / "photos", workdir="")
    study = Runs(copy / "study", one)
    first = study(config, "first")
    again = dataclasses.replace(config, seed=1)
    assert Runs(copy / "study", one)(again, "second")["data_digest"] == first["data_digest"]
    add(copy, 1)
    with pytest.raises(UserError, match="3 added"):
        Runs(copy / "study", one)(dataclasses.replace(config, seed=2), "third")
    assert not (copy / "study" / "runs" / "third").exists()


def test_a_run_directory_among_the_images_is_refused_at_the_start(copy, one):
    config = configured(copy, copy / "photos", workdir=str(copy / "photos" / "run"))
    with pytest.raises(UserError, match=r"--workdir=.*photos/run lies in the folder of the images"):
        finetune.run(config, one)
    assert not (copy / "photos" / "run").exists()


def test_a_damaged_record_is_one_sentence_and_nothing_is_lost(copy, one):
    config = unfinished(copy)
    (copy / "run" / record.FILE).write_bytes(b"PK\3\4")
    with pytest.raises(UserError, match=r"data\.npz, the record of the run's images, is damaged"):
        finetune.run(config, one)
    np.testing.assert_equal((copy / "run" / "checkpoints").is_dir(), True)
