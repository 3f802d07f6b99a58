"""Addresses of object stores are refused by name before they become folders."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_jax.config import object_stores
from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("flag", "value", "advice"),
    [
        ("workdir", "gs://bucket/run", "gcsfuse"),
        ("dataset", "csv:s3://bucket/photos.csv", "mount-s3"),
        ("dataset", "folder:hdfs://cluster/photos", "hadoop-fuse"),
        ("workdir", "S3://bucket", "mount-s3"),
        ("cache_dir", "az://container", "blobfuse2"),
        ("workdir", "file:///tmp/run", "give the path of a folder"),
    ],
)
def test_an_address_is_refused_with_its_scheme_and_what_to_do(flag: str, value: str, advice: str) -> None:
    refusal = object_stores.refusal(flag, value)
    assert f"--{flag}={value}: " in refusal
    assert "not supported" in refusal
    assert advice in refusal


@pytest.mark.parametrize("flag", ["workdir", "dataset", "run"])
def test_an_unknown_scheme_becomes_no_folder(flag: str) -> None:
    assert object_stores.refusal(flag, "magic://bucket/x") == (
        f"--{flag}=magic://bucket/x: magic:// is not known; give the path of a folder, or an address of gs://, s3:// "
        "or az://"
    )


@pytest.mark.parametrize(
    "value", ["runs/a", "gs:/x", "folder:photos", "hf:org/name", "https://host/x", "", "C:/x"]
)
def test_other_values_are_not(value: str) -> None:
    assert object_stores.refusal("workdir", value) == ""


def test_what_libraries_read_themselves_is_left_to_them() -> None:
    assert object_stores.refusal("data_dir", "gs://tfds-data/datasets") == ""
    assert object_stores.refusal("dataset", "folder:s3://bucket/photos") == ""


def test_a_config_is_checked() -> None:
    with pytest.raises(UserError, match="--workdir=gs://bucket/run: gs:// is not supported"):
        validate(FinetuneConfig(workdir="gs://bucket/run"))


@pytest.mark.parametrize(
    ("command", "flag", "message"),
    [
        ("finetune", "--workdir=hdfs://cluster/run", "hdfs:// is not supported; mount the bucket"),
        ("predict", "--run=hdfs://cluster/run", "hdfs:// is not supported; mount the bucket"),
        ("evaluate", "--run=memory://bucket/run", "there is nothing at that address"),
        ("runs", "oss://bucket/runs", "oss:// is not supported; mount the bucket"),
    ],
)
def test_no_command_makes_a_folder_of_an_address(
    command: str, flag: str, message: str, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", f"experiments.{command}", flag],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {flag}: {message}")
    assert {path.name for path in tmp_path.iterdir()} <= {"home"}
