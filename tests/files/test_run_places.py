"""What is said of directories that are no usable run."""

from pathlib import Path

import pytest
from made_up_runs import write_run

from finetune_jax.errors import UserError
from finetune_jax.files.run_places import why_unusable
from finetune_jax.models.card import read_best


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("photos", "autolr", "last"):
        write_run(tmp_path / name)
    write_run(tmp_path / "sweep" / "runs" / "low", score=0.25)
    write_run(tmp_path / "sweep" / "runs" / "high" / "seed0", score=0.5)
    write_run(tmp_path / "sweep" / "runs" / "going", score=None)
    return tmp_path


def test_a_misspelt_run_is_answered_by_those_that_are_there_the_likest_first(runs: Path) -> None:
    assert why_unusable(runs / "phots") == (
        f"there is no directory {runs / 'phots'}; runs in {runs} are photos, autolr, last"
    )
    assert why_unusable(runs / "lost" / "deep").endswith(f"; runs in {runs} are autolr, last, photos")
    assert why_unusable(runs / "sweep" / "none").startswith(
        f"there is no directory {runs / 'sweep' / 'none'}"
    )


def test_a_study_names_its_highest_run(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"{runs / 'sweep'} is a study of 3 runs; give one of them, as its highest, "
    assert why_unusable(runs / "sweep") == f"{said}{runs / 'sweep' / 'runs' / 'high' / 'seed0'}"
    monkeypatch.chdir(runs)
    assert why_unusable(Path("sweep")) == f"{said}sweep/runs/high/seed0"  # as it is typed


def test_a_folder_of_runs_and_a_run_at_its_beginning_are_told_apart(runs: Path) -> None:
    assert why_unusable(runs).endswith(
        f"is no run directory with an evaluated checkpoint; runs in {runs} are autolr, last, photos"
    )
    empty = runs / "empty"
    empty.mkdir()
    assert why_unusable(empty) == f"{empty} is no run directory with an evaluated checkpoint"
    with pytest.raises(UserError, match=r"has not ended its first epoch \(finetune-jax resume "):
        read_best(runs / "photos")


def test_many_runs_are_not_all_named(tmp_path: Path) -> None:
    for number in range(12):
        write_run(tmp_path / f"run-{number:02d}")
    assert why_unusable(tmp_path / "run-11x").endswith(" and 4 more")
    assert "are run-11, " in why_unusable(tmp_path / "run-11x")
