"""Experiment trackers: the same run after a resume, told by process 0 alone; and the plain log of a run."""

import importlib.util
import json
import sqlite3
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import Stopped, UserError
from finetune_jax.files.loggers import opened
from finetune_jax.files.run_directory import RunDirectory

FLAGS = {"epochs": 2, "method": "standard", "learning_rate": 0.01}
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio", "aim": "aim"}


def train(path: Path, loggers: tuple[str, ...], epochs: range, *, ends: bool) -> None:
    """What a run does with its directory."""
    with RunDirectory(path) as directory:
        directory.claim(FLAGS)
        directory.open_loggers(loggers, "project", FLAGS)
        for epoch in epochs:
            directory.add_metrics({"epoch": epoch, "step": 10 * epoch, "loss": 1 / epoch, "accuracy": None})
        if not ends:
            raise Stopped("stopped, saved")
        directory.write_summary({"test_accuracy": 0.75, "method": "standard"})


def train_twice(path: Path, loggers: tuple[str, ...], pause: float = 0.0) -> tuple[Any, Any]:
    """A run that is stopped after its first epoch and started again without naming its trackers."""
    with pytest.raises(Stopped):
        train(path, loggers, range(1, 2), ends=False)
    ids = json.loads((path / "loggers.json").read_text())
    time.sleep(pause)
    train(path, (), range(2, 3), ends=True)
    return ids, json.loads((path / "loggers.json").read_text())


def records(content: bytes) -> Iterator[bytes]:
    """Of a file of W&B below 32 KB: a header of seven bytes, then LevelDB's log, each with checksum, length, type."""
    start = 7
    while start + 7 <= len(content):
        _, length, _ = struct.unpack_from("<IHB", content, start)
        yield content[start + 7 : start + 7 + length]
        start += 7 + length


def test_wandb_has_both_epochs_under_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    before, after = train_twice(
        tmp_path / "run", ("wandb",), pause=1.1
    )  # folders of W&B have the second in their name
    assert before == after
    files = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*/run-{after['wandb']}.wandb"))
    assert files
    from wandb.proto import wandb_internal_pb2

    logged: list[dict[str, Any]] = []
    for file in files:
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.history.item:
                values = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
                logged.append({name: values[name] for name in ("epoch", "loss")})
    assert sorted(logged, key=lambda row: row["epoch"]) == [
        {"epoch": 1, "loss": 1.0},
        {"epoch": 2, "loss": 0.5},
    ]


def test_mlflow_has_both_epochs_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    before, after = train_twice(tmp_path / "run", ("mlflow",))
    assert before == after
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    history = client.get_metric_history(after["mlflow"], "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]
    run = client.get_run(after["mlflow"])
    assert (run.info.status, run.info.run_name, run.data.params["method"]) == ("FINISHED", "run", "standard")
    assert run.data.metrics["summary/test_accuracy"] == 0.75


def test_trackio_has_both_epochs_under_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    before, after = train_twice(tmp_path / "run", ("trackio",))
    assert before == after
    (database,) = (tmp_path / "trackio").rglob("project.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
    losses = {
        step: json.loads(metrics)["loss"] for name, step, metrics in rows if "loss" in json.loads(metrics)
    }
    assert losses == {1: 1.0, 2: 0.5}
    assert {name for name, _, _ in rows} == {after["trackio"]}


def test_aim_has_both_epochs_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    aim = pytest.importorskip("aim")
    before, after = train_twice(tmp_path / "run", ("aim",))
    assert before == after
    # Aim's own server makes the index that its read-only views need.
    run = aim.Run(after["aim"], system_tracking_interval=None, capture_terminal_logs=False)
    assert (run.name, run.experiment) == ("run", "project")
    assert run["flags"]["method"] == "standard"
    assert run["summary"]["test_accuracy"] == 0.75
    (losses,) = [metric for metric in run.metrics() if metric.name == "loss"]
    epochs, values = losses.epochs.sparse_numpy()[1], losses.values.sparse_numpy()[1]
    assert dict(zip(epochs.tolist(), values.tolist(), strict=True)) == {1: 1.0, 2: 0.5}
    run.close()


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_tracker_that_is_not_installed_is_named_with_its_extra(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(PACKAGES[name]):
        pytest.skip("it is installed")
    with pytest.raises(UserError, match=rf'pip install "finetune-jax\[{name}\]"'):
        train(tmp_path / "run", (name,), range(1, 2), ends=True)


class Recording:
    """A tracker of this test's own, which fails at the second epoch."""

    id = "7"

    def __init__(self, beginning: Any) -> None:
        self.told: list[tuple[str, Any]] = [("begin", beginning.known_as)]
        ALL.append(self)

    def log(self, values: Any, epoch: int) -> None:
        if epoch == 2:
            raise ConnectionError("the server is away")
        self.told.append(("log", (dict(values), epoch)))

    def finish(self, summary: Any) -> None:
        self.told.append(("finish", dict(summary)))

    def close(self, *, failed: bool) -> None:
        self.told.append(("close", failed))


ALL: list[Recording] = []


def test_a_tracker_that_fails_is_told_nothing_more_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(opened._KINDS, "wandb", Recording)  # type: ignore[arg-type]
    ALL.clear()
    train(tmp_path / "run", ("wandb",), range(1, 4), ends=True)
    assert ALL[0].told == [("begin", ""), ("log", ({"loss": 1.0}, 1))]
    assert "--loggers=wandb is told nothing more: the server is away" in capsys.readouterr().err
    assert len(RunDirectory(tmp_path / "run").read_metrics()) == 3
    with pytest.raises(Stopped):
        train(tmp_path / "run", ("wandb",), range(4, 5), ends=False)
    assert ALL[1].told == [("begin", "7"), ("log", ({"loss": 0.25}, 4)), ("close", False)]


def test_processes_other_than_the_first_tell_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(opened._KINDS, "wandb", Recording)  # type: ignore[arg-type]
    ALL.clear()
    with RunDirectory(tmp_path / "run") as first:
        first.claim(FLAGS)
        with RunDirectory(tmp_path / "run", primary=False) as other:
            other.claim(FLAGS)
            other.open_loggers(("wandb",), "project", FLAGS)
            other.add_metrics({"epoch": 1, "step": 1, "loss": 1.0})
            other.note("not written")
        first.note("written\nin two lines")
    assert ALL == []
    lines = (tmp_path / "run" / "run.log").read_text().splitlines()
    assert [line[21:] for line in lines] == ["written", "in two lines"]


def test_how_a_run_ended_is_in_its_log(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(tmp_path / "run", (), range(1, 2), ends=False)
    assert (tmp_path / "run" / "run.log").read_text().endswith("  stopped, saved\n")
    assert not (tmp_path / "run" / "loggers.json").exists()


def test_trackers_that_there_are_none_of_are_refused() -> None:
    with pytest.raises(UserError, match="--loggers=tensorboard is not known; choose some of wandb"):
        validate(FinetuneConfig(loggers=("tensorboard",)))
