"""The directory of a run: who may move in, and that its files are whole whatever happens."""

import dataclasses
import errno
import json
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_jax.config.settings import LOCAL_SETTINGS, FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.files import run_directory
from finetune_jax.files.run_directory import RunDirectory

FLAGS = {
    "dataset": "digits",
    "epochs": 3,
    "learning_rate": 0.01,
    "drop_epochs": (40, 60),
    "workdir": "runs/a",
    "cache_dir": "",
    "data_dir": "",
    "decode_workers": 0,
}
ROW = {"epoch": 1, "step": 20, "train_loss": 1.5, "validation_accuracy": 0.1 + 0.2, "seconds": 3.25}


def row(epoch: int) -> dict[str, Any]:
    return {**ROW, "epoch": epoch, "step": 20 * epoch}


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    directory = RunDirectory(tmp_path / "run")
    directory.claim(FLAGS)
    yield directory
    directory.close()


# --- claiming -------------------------------------------------------------------------------------------


def test_a_new_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where" / "run"
    RunDirectory(path).claim(FLAGS)
    assert os.listdir(path) == ["flags.json"]
    flags = json.loads((path / "flags.json").read_text())
    assert flags["drop_epochs"] == [40, 60]
    assert not LOCAL_SETTINGS & set(flags)


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    RunDirectory(tmp_path).claim(FLAGS)
    assert (tmp_path / "flags.json").exists()


def test_the_same_flags_go_on_also_from_another_place_of_the_machine(directory: RunDirectory) -> None:
    before = contents(directory.path)
    moved = dict.fromkeys(LOCAL_SETTINGS, "elsewhere")
    RunDirectory(directory.path).claim(FLAGS | moved)
    assert contents(directory.path) == before


def test_a_run_from_before_a_setting_existed_goes_on_with_its_default(directory: RunDirectory) -> None:
    default = dataclasses.asdict(FinetuneConfig())["temperature"]
    directory.check(FLAGS | {"temperature": default})
    with pytest.raises(UserError, match=rf"--temperature=1.0 \(was {default}\)"):
        directory.check(FLAGS | {"temperature": 1.0})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochs": 4}, "--epochs=4 (was 3)"),
        ({"learning_rate": 0.1, "dataset": "x"}, "--dataset=x (was digits), --learning_rate=0.1 (was 0.01)"),
        ({"drop_epochs": (40,)}, "--drop_epochs=[40] (was [40, 60])"),
        ({"new_flag": 1}, "--new_flag=1 (was None)"),
    ],
)
def test_other_flags_are_refused_with_both_values(
    directory: RunDirectory, change: dict[str, Any], named: str
) -> None:
    before = contents(directory.path)
    for primary in (True, False):
        with pytest.raises(UserError) as caught:
            RunDirectory(directory.path, primary=primary).claim(FLAGS | change)
        assert f"holds a run with other flags: {named}; give the same flags" in str(caught.value)
    assert contents(directory.path) == before


def test_more_epochs_for_a_finished_run_are_answered_with_the_way(directory: RunDirectory) -> None:
    directory.write_summary({"score": "test_accuracy"})
    with pytest.raises(UserError) as caught:
        directory.claim(FLAGS | {"epochs": 5})
    assert "has finished its 3 epochs" in str(caught.value)
    assert f"to train it further: finetune-jax resume {directory.path} --epochs=" in str(caught.value)
    with pytest.raises(UserError, match=r"other flags: --epochs=2 \(was 3\)"):  # fewer
        directory.claim(FLAGS | {"epochs": 2})
    with pytest.raises(UserError, match="other flags"):  # and something else
        directory.claim(FLAGS | {"epochs": 5, "learning_rate": 0.5})


@pytest.mark.parametrize("content", ["photo.jpg", "metrics.csv", ".hidden", "checkpoints/1/x"])
def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    file = tmp_path / content
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"mine")
    for primary in (True, False):
        with pytest.raises(UserError, match="exists and is not a run directory; choose another one"):
            RunDirectory(tmp_path, primary=primary).claim(FLAGS)
    assert contents(tmp_path) == {content: b"mine"}


def test_a_kill_while_the_flags_were_written_leaves_a_directory_that_can_be_taken(tmp_path: Path) -> None:
    (tmp_path / ".flags.json.tmp").write_text('{"dataset": "dig')
    RunDirectory(tmp_path).claim(FLAGS)
    RunDirectory(tmp_path).claim(FLAGS)
    assert os.listdir(tmp_path) == ["flags.json"]


def test_unreadable_flags_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "flags.json").write_text("{")
    with pytest.raises(UserError, match=f"--workdir={tmp_path} cannot be read: "):
        RunDirectory(tmp_path).claim(FLAGS)


@pytest.mark.parametrize("below", [".", "run"])
def test_a_file_in_the_way_is_one_sentence(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(
        UserError, match=r"--workdir=.*file.* cannot be created: (File exists|Not a directory)"
    ):
        RunDirectory(tmp_path / "file" / below).claim(FLAGS)
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_directory_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "mkdir", raising(PermissionError(errno.EACCES, os.strerror(errno.EACCES))))
    with pytest.raises(UserError, match=r"--workdir=.*run cannot be created: Permission denied"):
        RunDirectory(tmp_path / "run").claim(FLAGS)


def test_other_processes_wait_until_process_0_has_moved_in(tmp_path: Path) -> None:
    path = tmp_path / "run"
    began = time.monotonic()
    first = threading.Timer(0.3, lambda: RunDirectory(path).claim(FLAGS))
    first.start()
    RunDirectory(path, primary=False).claim(FLAGS)
    first.join()
    assert time.monotonic() - began > 0.3
    assert os.listdir(path) == ["flags.json"]


def test_other_processes_do_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory, "_CLAIM_SECONDS", 0.2)
    with pytest.raises(UserError, match="was not set up by process 0"):
        RunDirectory(tmp_path / "run", primary=False).claim(FLAGS)
    assert not (tmp_path / "run").exists()


# --- metrics --------------------------------------------------------------------------------------------


def test_metrics_come_back_exactly(directory: RunDirectory) -> None:
    assert directory.read_metrics() == []
    directory.add_metrics(row(1))
    directory.add_metrics({**row(2), "train_loss": None})
    directory.close()
    first, second = directory.read_metrics()
    assert list(first) == list(ROW)
    assert (first["epoch"], first["step"]) == ("1", "20")
    assert float(first["validation_accuracy"]) == 0.1 + 0.2
    assert second["train_loss"] == ""


def test_rows_after_the_checkpoint_are_dropped(directory: RunDirectory) -> None:
    for epoch in (1, 2, 3):
        directory.add_metrics(row(epoch))
    directory.drop_rows_after(100)
    assert len(directory.read_metrics()) == 3
    directory.drop_rows_after(45)  # a checkpoint in the middle of epoch 3
    assert [line["epoch"] for line in directory.read_metrics()] == ["1", "2"]
    directory.add_metrics(row(3))
    directory.close()
    assert [line["epoch"] for line in directory.read_metrics()] == ["1", "2", "3"]


def test_every_half_written_last_line_is_dropped(directory: RunDirectory) -> None:
    directory.add_metrics(row(1))
    directory.add_metrics(row(2))
    directory.close()
    file = directory.path / "metrics.csv"
    whole = file.read_bytes()
    start = whole.index(b"2,40")
    for end in range(start, len(whole) - len("3.25\r\n")):
        file.write_bytes(whole[:end])
        directory.drop_rows_after(20)
        assert [line["step"] for line in directory.read_metrics()] == ["20"], whole[start:end]
    file.write_bytes(whole[:3])  # of the header
    directory.drop_rows_after(0)
    assert directory.read_metrics() == []
    directory.add_metrics(row(1))
    directory.close()
    assert directory.read_metrics()[0]["step"] == "20"


def test_a_failed_write_leaves_the_file_before_it(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.add_metrics(row(1))
    before = (directory.path / "metrics.csv").read_bytes()
    monkeypatch.setattr(os, "fsync", raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(UserError) as caught:
        directory.add_metrics(row(2))
    assert str(caught.value) == (
        f"{directory.path / 'metrics.csv'} cannot be written: No space left on device; what was saved before is "
        "intact; make room or choose another --workdir, then start again"
    )
    assert (directory.path / "metrics.csv").read_bytes() == before


def test_other_processes_write_nothing(directory: RunDirectory) -> None:
    directory.add_metrics(row(1))
    directory.close()
    before = contents(directory.path)
    other = RunDirectory(directory.path, primary=False)
    other.claim(FLAGS)
    other.add_metrics(row(2))
    other.add_scalars({"x": 1.0}, 2)
    other.drop_rows_after(0)
    other.write_summary({"done": True})
    other.write_file("x.png", b"x")
    other.close()
    assert contents(directory.path) == before
    assert other.read_metrics() == directory.read_metrics()


# --- summary and other files ----------------------------------------------------------------------------


def test_the_summary_is_there_whole_or_not_at_all(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert directory.summary is None
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", raising(OSError(errno.EIO, os.strerror(errno.EIO))))
        with pytest.raises(UserError, match=r"summary\.json cannot be written: Input/output error"):
            directory.write_summary({"test_accuracy": 0.5})
    assert directory.summary is None
    directory.write_summary({"test_accuracy": 0.5})
    assert directory.summary == {"test_accuracy": 0.5}


# --- TensorBoard ----------------------------------------------------------------------------------------


def read_events(path: Path) -> list[Any]:
    """Events of all files in the order of writing; TFRecord framing: length, its CRC, payload, its CRC."""
    from tensorboardX.proto.event_pb2 import Event

    events = []
    for file in sorted(path.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return events


def test_events_are_on_disk_after_every_epoch_and_hide_those_trained_again(directory: RunDirectory) -> None:
    directory.add_scalars({"rate/head": 0.5}, 1)
    directory.add_metrics({**row(1), "seconds": None})
    # No close: a kill now loses nothing.
    first, start, *scalars = read_events(directory.path / "tensorboard")
    assert first.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (1, start.session_log.START)
    values = {
        event.summary.value[0].tag: (event.step, event.summary.value[0].simple_value) for event in scalars
    }
    assert values == {
        "rate/head": (1, 0.5),
        "train_loss": (1, 1.5),
        "validation_accuracy": (1, pytest.approx(0.3)),
    }
    directory.close()
    for file in (directory.path / "tensorboard").iterdir():
        file.rename(file.with_name(file.name + ".earlier"))
    again = RunDirectory(directory.path)
    again.add_scalars({"rate/head": 0.25}, 5)
    again.close()
    *_, start, scalar = read_events(directory.path / "tensorboard")
    assert (start.step, start.session_log.status) == (5, start.session_log.START)
    assert (scalar.step, scalar.summary.value[0].simple_value) == (5, 0.25)


def test_a_full_disk_is_one_sentence_and_never_a_wait(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.add_scalars({"x": 1.0}, 1)
    monkeypatch.setattr(os, "fsync", raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    for _ in range(3):
        with pytest.raises(UserError, match="tensorboard cannot be written: No space left on device"):
            directory.add_scalars(dict.fromkeys("abcdefghijklmnop", 1.0), 2)


def raising(error: OSError) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_run_from_before_a_setting_existed_goes_on_with_what_runs_did_then(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "old")
    config = FinetuneConfig(swa_epochs=2, workdir=str(directory.path))
    assert directory.as_begun(config) == config  # nothing has begun
    flags = dataclasses.asdict(config)
    directory.claim(flags)
    assert directory.as_begun(config) == config
    file = directory.path / "flags.json"
    recorded = json.loads(file.read_text())
    del recorded["average_statistics"]
    file.write_text(json.dumps(recorded))
    begun = directory.as_begun(config)
    assert begun == dataclasses.replace(config, average_statistics="kept")
    directory.check(dataclasses.asdict(begun))
    with pytest.raises(UserError, match="average_statistics"):
        directory.check(flags)
