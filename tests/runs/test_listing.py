"""The list of run directories, and what finished runs give back."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.reports import run_list
from finetune_jax.runs import listing


def make_run(path: Path, *, epochs=2, summary=None, **settings) -> Path:
    """The files of a run that has trained so many epochs of three."""
    config = FinetuneConfig(epochs=3, workdir=str(path), **settings)
    path.mkdir(parents=True)
    (path / "flags.json").write_text(json.dumps(dataclasses.asdict(config)))
    if epochs:
        rows = "".join(f"{number},{10 * number},0.7,0.{number}\n" for number in range(1, epochs + 1))
        (path / "metrics.csv").write_text(f"epoch,step,validation_loss,validation_accuracy\n{rows}")
    for step in ("10", "20"):
        for item in ("variables", "training"):
            (path / "checkpoints" / step / item).mkdir(parents=True)
            (path / "checkpoints" / step / item / "data").write_bytes(bytes(1000))
    if summary is not None:
        (path / "summary.json").write_text(json.dumps(summary))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    done = {"score": "test_accuracy", "test_accuracy": 0.9}
    make_run(tmp_path / "done", summary=done, method="autolr")
    make_run(tmp_path / "study" / "runs" / "half", dataset="folder:photos")
    make_run(tmp_path / "begun", epochs=0)
    (tmp_path / "no run").mkdir()
    return tmp_path


def test_runs_are_found_at_every_level_and_say_how_far_they_came(folder: Path) -> None:
    rows = {row.path.name: row for row in map(listing.read, listing.run_directories(folder))}
    states = {name: (row.state, row.score) for name, row in rows.items()}
    assert states == {
        "done": ("finished", 0.9),
        "half": ("epoch 2 of 3", 0.2),
        "begun": ("not begun", None),
    }
    assert rows["half"].score_name == "validation_accuracy"
    assert rows["half"].dataset == "folder:photos"
    assert rows["done"].method == "autolr"
    assert 4000 < rows["done"].bytes < 10_000


@pytest.mark.parametrize(
    ("sort", "first"), [("score", "done"), ("name", "begun"), ("size", "done"), ("age", "begun")]
)
def test_the_list_is_sorted_by_what_is_asked_for(folder: Path, sort: str, first: str) -> None:
    rows = [listing.read(path) for path in listing.run_directories(folder)]
    newest = [dataclasses.replace(row, age=float(row.path.name != "begun")) for row in rows]
    assert run_list.selected(newest, folder, sort=sort)[0]["run"] == first


def test_a_filter_keeps_the_runs_that_hold_its_text(folder: Path) -> None:
    rows = [listing.read(path) for path in listing.run_directories(folder)]
    names = {
        text: {c["run"] for c in run_list.selected(rows, folder, sort="name", text=text)}
        for text in ("photos", "autolr", "not begun", "nothing")
    }
    assert names == {
        "photos": {"study/runs/half"},
        "autolr": {"done"},
        "not begun": {"begun"},
        "nothing": set(),
    }


def test_the_table_gives_percent_and_the_csv_shares(folder: Path) -> None:
    rows = [listing.read(path) for path in listing.run_directories(folder)]
    cells = run_list.selected(rows, folder, sort="score")
    assert "90.00 %" in run_list.table(cells)
    parsed = list(csv.DictReader(io.StringIO(run_list.csv(cells))))
    assert [row["score"] for row in parsed] == ["0.9", "0.2", ""]


def test_a_finished_run_gives_back_what_only_training_needs(folder: Path) -> None:
    assert listing.free(folder / "done") == 2000
    left = sorted(
        path.relative_to(folder / "done") for path in (folder / "done" / "checkpoints").rglob("data")
    )
    assert left == [Path("checkpoints/10/variables/data"), Path("checkpoints/20/variables/data")]
    assert listing.free(folder / "done") == 0


def test_a_run_that_may_go_on_gives_back_nothing(folder: Path) -> None:
    with pytest.raises(UserError, match="has not finished"):
        listing.free(folder / "study" / "runs" / "half")
    assert (folder / "study" / "runs" / "half" / "checkpoints" / "10" / "training" / "data").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"epochs": "many"}', "\x00"])
def test_a_damaged_run_is_listed_as_such(folder: Path, content: str) -> None:
    (folder / "done" / "summary.json").unlink()
    (folder / "done" / "flags.json").write_text(content)
    row = listing.read(folder / "done")
    assert row.state in ("unreadable", "epoch 2 of many")


def test_links_in_a_circle_are_not_followed(folder: Path) -> None:
    (folder / "study" / "again").symlink_to(folder)
    assert len(listing.run_directories(folder)) == 3


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent: there is no such folder"):
        listing.run_directories(tmp_path / "absent")
