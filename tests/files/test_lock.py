"""One directory, one owner: who is refused, who is dead, and what is left behind."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from child_processes import SECONDS

from finetune_jax.errors import UserError
from finetune_jax.files import lock
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.files.workers import Worker

ROOT = Path(__file__).parents[2]
HOLD = (
    "import sys, pathlib, time\nfrom finetune_jax.files import lock\n"
    "with lock.locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(120)\n"
)


def hold(directory: Path) -> subprocess.Popen[str]:
    """A process that has locked the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def write_lock(directory: Path, *, age: float = 0.0, **changes: object) -> Path:
    """The lock of a process on another host, last renewed ``age`` seconds ago."""
    file = directory / lock.NAME
    values = {
        "place": "elsewhere boot pid",
        "process": 7,
        "started": "1",
        "since": 1e9,
        "token": "t",
        **changes,
    }
    file.write_text(json.dumps(values))
    now = time.time()
    os.utime(file, (now - age, now - age))
    return file


def test_a_second_process_is_refused_and_told_which_one_on_which_host(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        with pytest.raises(UserError) as caught:
            lock.acquire(tmp_path)
        message = str(caught.value)
        assert f"--workdir={tmp_path} is in use by process {process.pid} on {Worker.here().host}" in message
        assert "\n" not in message
        with pytest.raises(UserError, match="is in use by process"):
            RunDirectory(tmp_path).check({})
    finally:
        process.kill()
        process.wait()


def test_the_lock_of_a_killed_process_is_taken_over_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = hold(tmp_path)
    process.kill()
    process.wait()
    assert (tmp_path / lock.NAME).exists()
    with lock.locked(tmp_path):
        assert f"was in use by process {process.pid} on" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_an_owner_on_another_host_is_dead_when_it_gives_no_sign_of_life(tmp_path: Path) -> None:
    write_lock(tmp_path, age=lock.GRACE_SECONDS - 30)
    with pytest.raises(UserError, match=r"process 7 on elsewhere.*last sign of life 1[45]\d s ago"):
        lock.acquire(tmp_path)
    write_lock(tmp_path, age=lock.GRACE_SECONDS + 30)
    lock.acquire(tmp_path).release()
    assert os.listdir(tmp_path) == []


def test_a_number_that_another_process_has_by_now_does_not_keep_the_lock(tmp_path: Path) -> None:
    write_lock(tmp_path, place=Worker.here().place, process=os.getpid(), started="1")
    lock.acquire(tmp_path).release()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"place": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_lock_counts_by_its_age(tmp_path: Path, content: bytes) -> None:
    file = write_lock(tmp_path)
    file.write_bytes(content)
    with pytest.raises(UserError, match="is in use by an unknown process"):
        lock.acquire(tmp_path)
    os.utime(file, (0, 0))
    lock.acquire(tmp_path).release()


SLOW = (
    "import os, sys, pathlib\nfrom finetune_jax import errors\nfrom finetune_jax.files import lock\n"
    "move = os.rename\n"
    "def rename(source, target):\n"
    "    print('before', flush=True)\n    sys.stdin.readline()\n    move(source, target)\n"
    "    print('after', flush=True)\n    sys.stdin.readline()\n"
    "if sys.argv[2] == 'slow':\n    os.rename = rename\n"
    "print('here', flush=True)\nsys.stdin.readline()\n"
    "try:\n    lock.acquire(pathlib.Path(sys.argv[1])).check()\n    print('mine', flush=True)\n"
    "except errors.UserError as error:\n    print(error, flush=True)\n"
    "sys.stdin.read()\n"  # an owner that ended would leave the lock to the next
)
"""Takes a lock on a word; a slow one waits for another word before and after it moves a dead lock away."""


def test_one_that_is_late_to_take_a_dead_lock_over_takes_it_from_nobody(tmp_path: Path) -> None:
    write_lock(tmp_path, age=lock.GRACE_SECONDS + 100)
    late, second, third = (
        subprocess.Popen(
            [sys.executable, "-c", SLOW, str(tmp_path), speed],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for speed in ("slow", "fast", "fast")
    )

    def says(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def goes_on(process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    try:
        assert [says(process) for process in (late, second, third)] == ["here"] * 3
        goes_on(late)
        assert says(late) == "before"
        goes_on(second)
        time.sleep(0.5)  # in which it would have the lock, could it take it over
        goes_on(late)
        assert says(late) == "after"
        goes_on(third)
        results = [says(second), says(third)]
        goes_on(late)
        results.append(says(late))
        assert results.count("mine") == 1, results
        assert all("is in use by process" in result for result in results if result != "mine")
        assert [path.name for path in tmp_path.iterdir()] == [lock.NAME]
    finally:
        for process in (late, second, third):
            process.communicate(timeout=SECONDS)


def test_a_take_over_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    seen = write_lock(tmp_path, age=lock.GRACE_SECONDS + 100).read_bytes()
    guard = tmp_path / f"{lock.NAME}.{hashlib.sha256(seen).hexdigest()[:16]}"
    guard.write_bytes(seen)
    os.utime(guard, (time.time() - 1000,) * 2)
    lock.acquire(tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_of_many_at_once_one_takes_a_dead_lock_over(tmp_path: Path) -> None:
    write_lock(tmp_path, age=lock.GRACE_SECONDS + 100)
    program = (
        "import sys, pathlib\nfrom finetune_jax import errors\nfrom finetune_jax.files import lock\n"
        "print('here', flush=True)\nsys.stdin.readline()\n"
        "try:\n    held = lock.acquire(pathlib.Path(sys.argv[1]))\n    held.check()\n    print('mine', flush=True)\n"
        "except errors.UserError as error:\n    print(error, flush=True)\n"
        "sys.stdin.read()\n"  # an owner that ended would leave the lock to the next
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.stdout.readline() for process in processes if process.stdout is not None]
    for process in processes:
        process.communicate(timeout=SECONDS)
    assert sum(result == "mine\n" for result in results) == 1, results


def test_a_process_that_was_taken_for_dead_notices_and_leaves_the_new_owner_its_lock(tmp_path: Path) -> None:
    held = lock.acquire(tmp_path)
    held.check()
    file = write_lock(tmp_path)
    with pytest.raises(UserError, match="was taken over by process 7 on elsewhere"):
        held.check()
    held.release()
    assert json.loads(file.read_text())["process"] == 7


def test_the_owner_renews_its_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    held = lock.acquire(tmp_path)
    os.utime(tmp_path / lock.NAME, (0, 0))
    deadline = time.monotonic() + 20
    while (tmp_path / lock.NAME).stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    held.release()
    assert "lock" not in {thread.name for thread in threading.enumerate() if not held._released.is_set()}
    assert not (tmp_path / lock.NAME).exists()


def test_one_process_may_have_it_twice(tmp_path: Path) -> None:
    with lock.locked(tmp_path):
        with lock.locked(tmp_path):
            pass
        assert (tmp_path / lock.NAME).exists()
    assert not (tmp_path / lock.NAME).exists()


def test_a_directory_that_was_made_for_the_lock_goes_with_it_unless_it_is_used(tmp_path: Path) -> None:
    with lock.locked(tmp_path / "a" / "study"):
        pass
    assert not (tmp_path / "a" / "study").exists()
    with lock.locked(tmp_path / "study"):
        (tmp_path / "study" / "report.md").touch()
    assert os.listdir(tmp_path / "study") == ["report.md"]


def test_file_systems_without_hard_links_are_locked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    with lock.locked(tmp_path):
        assert not lock._create(tmp_path / lock.NAME, b"")
    assert os.listdir(tmp_path) == []


def test_a_run_directory_is_locked_from_claim_to_the_end_of_the_block(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run") as directory:
        assert not (tmp_path / "run").exists()
        directory.claim({"epochs": 3})
        assert (tmp_path / "run" / lock.NAME).exists()
    assert os.listdir(tmp_path / "run") == ["flags.json"]
    write_lock(tmp_path / "run", age=1e4)
    with RunDirectory(tmp_path / "run") as directory:
        directory.claim({"epochs": 3})


def test_the_other_processes_of_a_job_have_the_lock_of_process_0(tmp_path: Path) -> None:
    write_lock(tmp_path)
    (tmp_path / "flags.json").write_text('{"epochs": 3}')
    with RunDirectory(tmp_path, primary=False) as directory:
        directory.check({"epochs": 3})
        directory.claim({"epochs": 3})
