"""Directories on object stores: what the store has is always the directory as it was at one moment."""

import dataclasses
import json
import os
import shutil
import time
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest
from small_runs import small_run

import finetune_jax
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import Pruned, UserError
from finetune_jax.files import steady_folder, store_lock, working_copies
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.files.steady_folder import Unsteady, steady
from finetune_jax.files.store_directory import MANIFEST
from finetune_jax.files.store_lock import StoreLock
from finetune_jax.files.workers import Worker
from finetune_jax.files.working_copy import WorkingCopy
from finetune_jax.runs import finetune

ADDRESS = "memory://bucket/runs/photos"
SYSTEM = fsspec.filesystem("memory")


@pytest.fixture(autouse=True)
def empty_store():
    SYSTEM.store.clear()
    SYSTEM.pseudo_dirs[:] = [""]
    yield
    working_copies.let_go()
    for copy in _copies:
        copy._ended.set()
        for thread in copy._threads:
            thread.join()
    _copies.clear()


_copies: list[WorkingCopy] = []


def copy_in(folder: Path) -> WorkingCopy:
    _copies.append(WorkingCopy(ADDRESS, folder / "photos", f"--workdir={ADDRESS}"))
    return _copies[-1]


def write(copy: WorkingCopy, **files: str) -> None:
    for name, text in files.items():
        file = copy.folder / name.replace("__", "/").replace("_csv", ".csv")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_another_machine_gets_what_was_committed(tmp_path):
    here = copy_in(tmp_path / "here")
    here.begin()
    write(here, metrics_csv="1", checkpoints__1__weights="w1")
    here.commit()
    write(here, metrics_csv="1 2", checkpoints__2__weights="w2")
    shutil.rmtree(here.folder / "checkpoints" / "1")
    here.close()
    there = copy_in(tmp_path / "there")
    write(there, stale_csv="of another run", checkpoints__9__weights="of another run")
    there.fetch()
    assert content(there.folder) == {"metrics.csv": "1 2", "checkpoints/2/weights": "w2"}
    # No folder of a checkpoint that is gone, which would look like the last one.
    assert sorted(path.name for path in (there.folder / "checkpoints").iterdir()) == ["2"]
    # For people and TensorBoard every file has its own name, and nothing else is left.
    assert SYSTEM.cat_file("/bucket/runs/photos/metrics.csv") == b"1 2"
    names = [name for name in SYSTEM.find("/bucket") if ".finetune_jax" not in name]
    assert names == ["/bucket/runs/photos/checkpoints/2/weights", "/bucket/runs/photos/metrics.csv"]


@pytest.mark.parametrize("uploads", [0, 1, 2])
def test_a_process_killed_while_it_uploads_leaves_the_commit_before(tmp_path, monkeypatch, uploads):
    here = copy_in(tmp_path / "here")
    here.begin()
    write(here, metrics_csv="1", summary_csv="a")
    here.commit()
    write(here, metrics_csv="1 2", summary_csv="b", checkpoints__2__weights="w2")
    done = []

    def killed(name, content):
        if len(done) >= uploads:
            raise KeyboardInterrupt
        done.append(name)
        SYSTEM.pipe_file(f"{here._store.root}/{name}", content if isinstance(content, bytes) else b"w2")

    monkeypatch.setattr(here._store, "write", killed)
    here._ended.set()
    with pytest.raises(KeyboardInterrupt):
        here.commit()
    there = copy_in(tmp_path / "there")
    there.fetch()
    assert content(there.folder) == {"metrics.csv": "1", "summary.csv": "a"}


def test_a_copy_that_has_gone_further_is_kept_and_one_that_was_overtaken_is_not(tmp_path):
    here = copy_in(tmp_path / "here")
    here.begin()
    write(here, metrics_csv="1")
    here.close()
    write(here, metrics_csv="1 2")  # and was killed before it could commit
    again = copy_in(tmp_path / "here")
    again.fetch()
    assert content(again.folder) == {"metrics.csv": "1 2"}
    there = copy_in(tmp_path / "there")
    there.begin()
    write(there, metrics_csv="1 3")
    there.close()
    again.fetch()
    assert content(again.folder) == {"metrics.csv": "1 3"}
    # A directory that was removed from the store begins anew.
    SYSTEM.rm("/bucket", recursive=True)
    again.fetch()
    assert not content(again.folder)


def test_files_are_of_one_moment(tmp_path, monkeypatch):
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "checkpoints" / "1" / "weights").write_text("w1")
    (tmp_path / "metrics.csv").write_text("1")
    walk = steady_folder.walk

    def while_training(folder, *, once=None):
        yield from list(walk(folder, once=once))
        if once is False:  # a checkpoint comes while tables are read
            (tmp_path / "checkpoints" / "2").mkdir()
            (tmp_path / "checkpoints" / "2" / "weights").write_text("w2")

    monkeypatch.setattr(steady_folder, "walk", while_training)
    with pytest.raises(Unsteady):
        steady(tmp_path, {})
    monkeypatch.undo()
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp" / "weights").write_text("half")
    (tmp_path / ".lock").write_text("this process")
    statuses, contents = steady(tmp_path, {})
    assert sorted(statuses) == ["checkpoints/1/weights", "checkpoints/2/weights", "metrics.csv"]
    assert contents == {"metrics.csv": b"1"}
    assert steady(tmp_path, statuses)[1] == {}  # unchanged files are not read again


def test_what_arrives_otherwise_than_it_was_committed_is_refused(tmp_path):
    here = copy_in(tmp_path / "here")
    here.begin()
    write(here, metrics_csv="1", checkpoints__1__weights="w1")
    here.close()
    SYSTEM.pipe_file("/bucket/runs/photos/metrics.csv", b"2")  # only for people
    copy_in(tmp_path / "elsewhere").fetch()
    SYSTEM.pipe_file("/bucket/runs/photos/checkpoints/1/weights", b"w2")
    with pytest.raises(
        UserError, match=r"checkpoints/1/weights arrived with other content than was committed"
    ):
        copy_in(tmp_path / "there").fetch()


def test_a_directory_has_one_owner(tmp_path, monkeypatch, capfd):
    here = copy_in(tmp_path / "here")
    here.begin()
    with pytest.raises(UserError, match="is in use by another process on this machine"):
        copy_in(tmp_path / "here").begin()
    # Another machine: where the owner's number goes on, and where it stands still.
    monkeypatch.setattr(store_lock.Worker, "here", lambda: Worker("n2 boot", 7, "1"))
    path = "/bucket/runs/photos/.finetune_jax/lock.json"
    beats = iter(range(100))
    read = StoreLock._read

    def beating(lock):
        here._lock._beat = next(beats)
        SYSTEM.pipe_file(path, here._lock._content())
        return read(lock)

    monkeypatch.setattr(StoreLock, "_read", beating)
    with pytest.raises(UserError, match=f"in use by process {os.getpid()} on "):
        StoreLock(SYSTEM, path, f"--workdir={ADDRESS}", watch_seconds=0.5)
    monkeypatch.setattr(StoreLock, "_read", read)
    taken = StoreLock(SYSTEM, path, f"--workdir={ADDRESS}", watch_seconds=0.5)
    assert "has ended without giving it back; going on with it" in capfd.readouterr().err
    write(here, metrics_csv="too late")
    with pytest.raises(UserError, match="was taken over by process 7 on n2"):
        here.commit()
    taken.release()
    assert not SYSTEM.exists(path)
    assert "metrics.csv" not in json.loads(SYSTEM.cat_file(f"/bucket/runs/photos/{MANIFEST}"))["files"]


def test_the_lock_is_renewed_while_an_upload_takes_long(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune_jax.files.working_copy.BEAT_SECONDS", 0.05)
    here = copy_in(tmp_path / "here")
    here.begin()
    with here._alone:  # as during an upload
        path, beats = "/bucket/runs/photos/.finetune_jax/lock.json", set()
        deadline = time.monotonic() + 20
        while len(beats) < 3 and time.monotonic() < deadline:
            beats.add(json.loads(SYSTEM.cat_file(path))["beat"])
    assert len(beats) == 3
    here.close()
    assert not SYSTEM.exists(path)


def test_an_owner_that_has_ended_on_this_machine_is_not_waited_for(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Worker, "has_ended", lambda worker: True)
    here = copy_in(tmp_path / "here")
    here.begin()
    here._ended.set()
    began = time.monotonic()
    copy_in(tmp_path / "there").begin()
    assert time.monotonic() - began < 5
    assert "going on with it" in capfd.readouterr().err


def test_a_run_of_a_study_is_read_by_its_own_address(tmp_path):
    study = WorkingCopy("memory://bucket/study", tmp_path / "here" / "study", "--workdir")
    study.begin()
    write(study, runs__a__metrics_csv="1", runs__b__metrics_csv="2")
    study.commit()
    write(study, runs__b__metrics_csv="2 3")
    study.close()
    folder = working_copies.read("memory://bucket/study/runs/b", tmp_path)
    assert content(folder) == {"metrics.csv": "2 3"}
    part = WorkingCopy("memory://bucket/study/runs/b", tmp_path / "there" / "b", "--workdir=x")
    with pytest.raises(UserError, match=r"--workdir=x is a part of /bucket/study"):
        part.begin()


def test_a_directory_that_was_copied_to_the_store_is_read_and_gone_on_with(tmp_path):
    SYSTEM.pipe_file("/bucket/runs/photos/metrics.csv", b"1")
    assert content(working_copies.read(ADDRESS, tmp_path / "read")) == {"metrics.csv": "1"}
    here = copy_in(tmp_path / "here")
    here.begin()
    write(here, metrics_csv="1 2")
    here.close()
    there = copy_in(tmp_path / "there")
    there.fetch()
    assert content(there.folder) == {"metrics.csv": "1 2"}
    with pytest.raises(UserError, match="there is nothing at that address"):
        working_copies.read("memory://bucket/nothing", tmp_path)


def test_a_list_of_runs_takes_no_checkpoints(tmp_path):
    here = copy_in(tmp_path / "here")
    here.begin()
    write(here, metrics_csv="1", checkpoints__1__weights="w" * 1000)
    here.close()
    listing = WorkingCopy("memory://bucket/runs", tmp_path / "listing", "memory://bucket/runs")
    listing.fetch_listing()
    weights = listing.folder / "photos" / "checkpoints" / "1" / "weights"
    assert weights.stat().st_size == 1000
    assert weights.stat().st_blocks == 0
    assert (listing.folder / "photos" / "metrics.csv").read_text() == "1"


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_bit_for_bit_on_another_machine_and_is_read_there(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(working_copies, "ROOT", str(tmp_path / "copies"))
    config = small_run(tmp_path, count=20, epochs=3, learning_rate=0.01, checkpoint_steps=2)
    replicas = Replicas(tuple(jax.devices()[:1]))

    def metrics(folder):
        rows = RunDirectory(folder).read_metrics()
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in rows]

    finetune.run(dataclasses.replace(config, workdir=str(tmp_path / "alone")), replicas)
    here = copy_in(tmp_path / "here")
    here.begin()

    def kill(row):
        if row["epoch"] == 2:
            here.commit()
            here._ended.set()
            raise Pruned("killed")

    with pytest.raises(Pruned):
        finetune.run(dataclasses.replace(config, workdir=str(here.folder)), replicas, kill)
    here.release()
    there = copy_in(tmp_path / "there")
    there.begin()
    assert len(metrics(there.folder)) == 2
    finetune.run(dataclasses.replace(config, workdir=str(there.folder)), replicas)
    there.close()
    assert metrics(there.folder) == metrics(tmp_path / "alone")
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    outputs = [finetune_jax.load(address)(image) for address in (ADDRESS, str(tmp_path / "alone"))]
    np.testing.assert_array_equal(*outputs)
