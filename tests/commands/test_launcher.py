"""``launch.sh`` from another folder, and runs whose directory is not named."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from photos import write_photos

from finetune_jax.commands import command_line
from finetune_jax.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path):
    """An environment for ``launch.sh`` that is installed and runs this interpreter."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    content = (ROOT / "requirements.txt").read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    stamp = subprocess.run(["cksum"], input=content, capture_output=True, check=True).stdout
    (venv / ".installed-base").write_bytes(stamp)
    return {**os.environ, "VENV": str(venv), "NO_JEMALLOC": "1"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="launch.sh is a bash script")
def test_relative_paths_count_from_the_folder_that_launch_sh_is_called_from(tmp_path, environment):
    here = tmp_path / "here"
    write_photos(here / "photos", per_class=10)
    # A file of the user that is called as a module of the standard library.
    (here / "random.py").write_text("raise SystemExit('shadowed')\n")
    launcher = os.path.relpath(ROOT / "launch.sh", here)

    def launch(*words):
        return subprocess.run(
            [launcher, "--cpu", *words],
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    cache = f"--cache_dir={tmp_path / 'cache'}"
    result = launch("check_data", "--dataset=photos", cache)
    assert result.returncode == 0, result.stderr
    assert "No problems found" in result.stdout
    absent = launch("check_data", "--dataset=folder:absent", cache)
    assert absent.returncode == 1
    assert str(here / "absent") in absent.stderr
    assert f"see {launcher} check_data --help" in launch("check_data", "stray").stderr
    assert not (ROOT / "photos").exists()
    usage = launch("help").stdout
    assert "  finetune     Fine-tune a pretrained network." in usage.splitlines()


@pytest.fixture
def parsed_flags():
    flags.FLAGS(["program"])
    yield flags.FLAGS
    flags.FLAGS.unparse_flags()


def test_a_run_without_a_directory_gets_a_new_one(tmp_path, monkeypatch, parsed_flags):
    monkeypatch.chdir(tmp_path)
    assert command_line.new_workdir("folder:my/photos/") == os.path.join("runs", "photos-1")
    assert command_line.new_workdir("folder:photos") == os.path.join("runs", "photos-2")
    assert command_line.new_workdir("tfds:cars196", "autolr") == os.path.join("runs", "cars196-autolr-1")
    assert (tmp_path / "runs" / "photos-2").is_dir()


def test_processes_of_a_cluster_need_a_directory_that_all_know(tmp_path, monkeypatch, parsed_flags):
    monkeypatch.chdir(tmp_path)
    flags.FLAGS.coordinator = "host:1"
    with pytest.raises(UserError, match="name a directory that all processes of --coordinator share"):
        command_line.new_workdir("digits")
    assert os.listdir(tmp_path) == []
    flags.FLAGS["coordinator"].unparse()
