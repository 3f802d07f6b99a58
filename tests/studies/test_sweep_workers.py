"""Workers of one sweep: killed, ended by errors, on another machine; and the storages they share."""

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from child_processes import SECONDS
from sweeps import BASE, GRID, MadeUp, points, queue_of, sweep

from finetune_jax.errors import UserError
from finetune_jax.files.workers import Worker

ROOT = Path(__file__).parents[2]


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "study.journal"


# --- many workers, lost workers ------------------------------------------------------------------------------


def start_worker(log, storage, stuck="none"):
    return subprocess.Popen(
        [sys.executable, Path(__file__).parents[1] / "helpers" / "sweeps.py", str(log), str(storage), stuck],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_workers_share_a_study_and_go_on_with_the_trial_of_one_that_was_killed(tmp_path, kind):
    storage = tmp_path / "study.journal" if kind == "journal" else f"sqlite:///{tmp_path}/study.db"
    log = tmp_path / "log"
    log.touch()
    killed = start_worker(log, storage, stuck="0002")
    deadline = time.monotonic() + SECONDS
    while "0002" not in log.read_text():
        assert time.monotonic() < deadline, killed.communicate(timeout=1)
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = log.read_text().split()
    assert [name[:4] for name in before] == ["0000", "0001", "0002"]
    workers = [start_worker(log, storage) for _ in range(2)]
    for worker in workers:
        out, err = worker.communicate(timeout=SECONDS)
        assert worker.returncode == 0, err
        assert out.strip() == "8"
    names = log.read_text().split()
    # Finished trials are not trained again, the interrupted one is, in its own directory.
    assert sorted(names) == sorted([*{*names}, before[2]])
    assert len({*names}) == 8
    assert sum(name == before[2] for name in names) == 2


def test_the_trial_of_a_worker_on_another_machine_is_taken_after_its_last_sign_of_life(storage):
    elsewhere, here = queue_of(storage, grace=300), queue_of(storage, grace=300)
    elsewhere._me = elsewhere._me._replace(place="another machine")
    clock = [0.0]
    here._now = lambda: clock[0]
    with elsewhere:
        (theirs,) = elsewhere.take(1)
        with here:
            taken = here.take(8)
            assert [trial.number for trial in taken] == [1, 2, 3, 4, 5, 6, 7]
            for _ in range(3):
                elsewhere._give_sign_of_life()
                assert here.take(1) == []
                clock[0] += 200
                assert here.take(1) == []
                assert not here.done
            clock[0] += 101
            (again,) = here.take(1)
            assert again.number == 8
            assert (again.point, again.run) == (theirs.point, theirs.run)
            # The other worker comes back: it is told to stop, and what it says does not count.
            assert elsewhere.report(theirs, 1, 0.5)
            elsewhere.finish(theirs, [0.123])
            for trial in [*taken, again]:
                here.finish(trial, [0.5])
            assert here.done
            assert [record.scores for record in here.records()] == [(0.5,)] * 8


def test_a_process_that_has_ended_or_another_one_with_its_number_is_told_from_one_that_runs():
    me = Worker.here()
    assert not me.has_ended()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert me._replace(process=child.pid).has_ended()
    assert me._replace(started="long ago").has_ended() == bool(me.started)
    assert not me._replace(process=child.pid, place="elsewhere").has_ended()
    assert not Worker(me.place, os.getpid(), "").has_ended()


def test_a_worker_that_ends_by_an_error_gives_its_trial_back(storage):
    def full(jobs):
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        sweep(storage, full)
    train = MadeUp()
    assert len(points(sweep(storage, train), "complete")) == 8
    assert len(train.names) == 8


# --- storages ------------------------------------------------------------------------------------------------


def test_a_study_with_other_settings_is_refused_and_stays_as_it_was(storage):
    sweep(storage, MadeUp())
    before = storage.read_bytes()
    changed = dataclasses.replace(BASE, epochs=3)
    with pytest.raises(UserError, match=r"other settings: --epochs=3 \(was 4\); give the same flags"):
        sweep(storage, MadeUp(), base=changed)
    with pytest.raises(UserError, match=r"--momenta=\[0\.5\] \(was \[0\.0, 0\.9\]\)"):
        sweep(storage, MadeUp(), dataclasses.replace(GRID, momenta=(0.5,)))
    with pytest.raises(UserError, match=r"--seeds=\[1\] \(was \[0\]\)"):
        sweep(storage, MadeUp(), seeds=(1,))
    moved = dataclasses.replace(
        BASE, cache_dir="/elsewhere", learning_rate=0.7
    )  # neither changes a run of it
    assert sweep(storage, MadeUp(), base=moved)["trained"] == 8
    assert len(storage.read_bytes()) - len(before) < 1000


def test_a_worker_with_other_images_is_refused_before_it_takes_a_trial(storage):
    with queue_of(storage) as first, queue_of(storage) as same, queue_of(storage) as other:
        first.agree_on_data("a" * 64)
        assert first.take(1)
        same.agree_on_data("a" * 64)
        assert same.take(1)
        with pytest.raises(
            UserError, match=r"other images: their digest is a{12}, here it is b{12}; give all"
        ):
            other.agree_on_data("b" * 64)
        with pytest.raises(UserError, match="other images"):
            other.take(1)


def test_of_workers_that_begin_together_with_different_images_one_takes_trials(storage):
    with queue_of(storage) as one, queue_of(storage) as another:
        one.agree_on_data("a" * 64)
        one._study.set_user_attr(
            "data_digest", "b" * 64
        )  # written between the look and the writing of the other
        another.agree_on_data("b" * 64)
        assert another.take(1)
        with pytest.raises(UserError, match="other images"):
            one.take(1)


def test_a_record_cut_short_by_a_full_disk_costs_nothing_else(storage):
    train = MadeUp()
    with queue_of(storage) as queue:
        (taken,) = queue.take(1)
        with storage.open("ab") as file:
            file.write(b'{"op_code": 6, "worker_')
        queue.finish(taken, [0.25])
    records = sweep(storage, train)["trials"]
    assert len(records) == 8
    assert records[0]["score"] == 0.25
    assert len(train.names) == 7


def test_a_storage_that_is_locked_is_an_error_and_loses_no_trial(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune_jax.studies.sweeps.storage.LOCK_SECONDS", 0.2)
    file = tmp_path / "study.db"
    storage = f"sqlite:///{file}"
    other = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
    train = MadeUp()

    def locks_at_the_third(jobs):
        if len(train.names) == 2:
            other.execute("BEGIN EXCLUSIVE")
        return train(jobs)

    with pytest.raises(UserError, match=r"--storage=sqlite.*study\.db cannot be used: .*database is locked"):
        sweep(storage, locks_at_the_third)
    with pytest.raises(UserError, match=r"cannot be (used|opened): .*database is locked"):
        sweep(storage, train)
    other.execute("ROLLBACK")
    other.close()
    assert len(points(sweep(storage, train), "complete")) == 8
    assert len(train.names) == 9  # the one that was in training begins again, and finds its run ended


@pytest.mark.parametrize(
    ("storage", "parts"),
    [
        ("sqlite:////nowhere/at/all/study.db", ["--storage=sqlite:////nowhere", "unable to open"]),
        ("postgresql://me:secret@localhost:1/none", ["--storage=postgresql://me:***@localhost:1/none"]),
        ("magic://host/name", ["--storage=magic://host/name", "magic"]),
        ("/proc/none/study.journal", ["--storage=/proc/none/study.journal cannot be used"]),
        ("{tmp}", ["cannot be used: Is a directory"]),
        ("{tmp}/photo.txt", ["is no journal of a study"]),
        ("{tmp}/list.json", ["is no journal of a study"]),
    ],
)
def test_a_storage_that_cannot_be_reached_is_named_without_its_password(tmp_path, storage, parts):
    (tmp_path / "photo.txt").write_text("no journal\nat all\n")
    (tmp_path / "list.json").write_text('["no", "journal"]\n')
    with pytest.raises(UserError) as error:
        queue_of(storage.replace("{tmp}", str(tmp_path)))
    for part in parts:
        assert part in str(error.value)
    assert "secret" not in str(error.value)
