"""The wheel: it has all files of the package, and its program works outside a checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from child_processes import SECONDS

ROOT = Path(__file__).parents[1]


def call(*command: str | Path, cwd: Path) -> str:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")
    }
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of the sources, since setuptools builds in place."""
    home = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT / "finetune_jax", home / "finetune_jax", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, home)
    call(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        ".",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        "dist",
        cwd=home,
    )
    (path,) = (home / "dist").glob("finetune_jax-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bin`` of an environment with nothing but the wheel, which sees the libraries of this one.

    Those that a path file adds are searched last, and path files among them are not read: an editable install of
    this checkout is not seen.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    call(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=home,
    )
    site = Path(
        call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip()
    )
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    tracked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "finetune_jax").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == tracked


def test_the_installed_package_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    where = call(
        installed / "python", "-c", "import finetune_jax; print(finetune_jax.__file__)", cwd=tmp_path
    )
    assert Path(where.strip()).is_relative_to(installed.parent)


def test_the_program_fine_tunes_the_bundled_network_in_an_empty_folder(
    installed: Path, tmp_path: Path
) -> None:
    flags = ("--dataset=digits", "--method=feature_extractor", "--epochs=1", "--workdir=run")
    printed = call(installed / "finetune-jax", "finetune", *flags, cwd=tmp_path)
    assert "run directory: run" in printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.5
    assert (tmp_path / "run" / "report.html").exists()


def test_the_program_lists_its_commands_and_names_one_that_there_is_not(
    installed: Path, tmp_path: Path
) -> None:
    commands = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__"}
    usage = call(installed / "finetune-jax", "--help", cwd=tmp_path)
    assert commands <= set(usage.replace(",", " ").split())
    done = subprocess.run(
        [installed / "finetune-jax", "finetun"], cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no command finetun;")
