"""Runs with ``--data_shards``: batches by the number of shards, scores counted on the devices, and what is refused."""

import dataclasses
import os
from pathlib import Path

import jax
import pytest
from small_runs import small_run

from finetune_jax.config import recorded
from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.runs import finetune

TWO = Replicas(tuple(jax.devices()[:2]))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    home = tmp_path_factory.mktemp("data_shards")
    return small_run(home, count=20, epochs=1, learning_rate=0.01, select_on="test")


@pytest.mark.slow
def test_a_run_keeps_the_number_of_its_shards_and_notices_a_changed_file(base, tmp_path, capfd):
    config = dataclasses.replace(base, workdir=str(tmp_path / "run"), data_shards="2")
    summary = finetune.run(config, TWO)
    assert "images in 2 shards" in capfd.readouterr().err
    directory = RunDirectory(tmp_path / "run")
    assert directory.resolved["data_shards"] == 2
    # The row is counted on the devices, the summary is of all outputs.
    (row,) = directory.read_metrics()
    for name in ("test_loss", "test_accuracy", "test_balanced_accuracy"):
        assert float(row[name]) == pytest.approx(summary[name], rel=1e-5)
    with pytest.raises(UserError, match=r"3 processes cannot share 2 shards evenly; start 1 or 2 of them"):
        finetune.prepare(
            config,
            dataclasses.replace(TWO, process_count=3),
            data_before=finetune.recorded_data.before(directory.path),
        )
    photo = next(Path(base.dataset.removeprefix("folder:")).rglob("*.png"))
    before = photo.stat()
    try:
        photo.touch()
        with pytest.raises(UserError, match=r"the data has other images .* 1 changed"):
            finetune.run(config, TWO)
    finally:
        os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"balanced_sampling": True},
            "--data_shards=2 contradicts --balanced_sampling, which draws from all",
        ),
        ({"skip_unreadable": True}, "--data_shards=2 contradicts --skip_unreadable, which renumbers"),
        ({"normalization": "dataset"}, "--data_shards=2 contradicts --normalization=dataset"),
        ({"learning_rate": "find"}, "--data_shards=2 contradicts --learning_rate=find"),
        ({"data_shards": "0"}, "--data_shards=0 is not known; give auto, process, or a number of shards"),
    ],
)
def test_what_needs_the_images_of_all_shards_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        validate(dataclasses.replace(FinetuneConfig(data_shards="2"), **changes))


def test_a_batch_that_the_shards_cannot_share_is_refused(base, tmp_path):
    config = dataclasses.replace(base, workdir=str(tmp_path / "run"), data_shards="3")
    with pytest.raises(UserError, match="--batch_size=16 does not divide by the 3 shards"):
        finetune.run(config, TWO)
    assert not (tmp_path / "run").exists()


def test_runs_from_before_there_were_shards_have_none():
    assert recorded.completed({})["data_shards"] == "1"
    assert recorded.completed({"data_shards": "process"})["data_shards"] == "process"
