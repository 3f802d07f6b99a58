"""Processes of a job that are lost, hang, fail, differ or are stopped: real ones, that train nothing."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fork_server
import pytest

from finetune_jax.devices import cluster, roll_call
from finetune_jax.devices.peers import LOST_STATUS, STOPPED_STATUS
from finetune_jax.errors import UserError

ROOT = Path(__file__).parents[2]
MEMBER = ROOT / "tests" / "helpers" / "cluster_member.py"
TIMEOUT = 6.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Member:
    """One of the processes."""

    def __init__(
        self, port: int, index: int, *actions: str, count: int = 2, timeout: float = TIMEOUT, host: str = ""
    ) -> None:
        self.process = fork_server.start(
            str(MEMBER),
            f"127.0.0.1:{port}",
            count,
            index,
            timeout,
            *actions,
            environment={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "SLURMD_NODENAME": host or f"n{index}",
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "PYTHONPATH": str(ROOT),
            },
        )

    def until(self, line: str) -> None:
        for text in self.process.stdout:
            if text.strip() == line:
                return
        pytest.fail(self.end()[1])

    def end(self, seconds: float = 60) -> tuple[int, str]:
        """Status, and the last line of its errors."""
        try:
            _, errors = self.process.communicate(timeout=seconds)
        finally:
            self.process.kill()
        return self.process.returncode, (errors.strip().splitlines() or [""])[-1]


@pytest.fixture
def start() -> Iterator[Callable[..., list[Member]]]:
    members: list[Member] = []

    def start(*actions: tuple[str, ...], **options: float) -> list[Member]:
        port = free_port()
        members[:] = [
            Member(port, index, *words, count=len(actions), **options) for index, words in enumerate(actions)
        ]
        return members

    yield start
    for member in members:
        member.process.kill()
        member.process.wait()


def test_processes_that_differ_all_end_with_the_same_sentence(start: Callable[..., list[Member]]) -> None:
    began = time.monotonic()
    ends = [
        member.end() for member in start(("fact=red", "wait"), ("fact=red", "wait"), ("fact=blue", "wait"))
    ]
    sentence = (
        "error: the processes of this job differ: the colour is blue on process 2 (host n2) but red on "
        "processes 0, 1; paint them alike"
    )
    assert ends == [(1, sentence)] * 3
    assert time.monotonic() - began < 40  # 120 in JAX's barrier


def test_a_directory_that_is_not_shared_is_noticed_before_anything_is_read(
    start: Callable[..., list[Member]], tmp_path: Path
) -> None:
    here, there, shared = tmp_path / "runs" / "here", tmp_path / "there", tmp_path / "shared"
    there.mkdir()
    sentence = (
        f"error: --workdir={there} of process 1 on host n1 is not the directory in which process 0 on host n0 "
        "writes; give one that all processes share"
    )
    words = [(f"workdir={shared}", f"workdir={folder}") for folder in (here, there)]
    assert [member.end() for member in start(*words)] == [(1, sentence)] * 2
    # Nothing is left behind, neither of what was refused nor of what was not.
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert not list(there.iterdir())


def test_texts_of_all_processes_are_gathered_in_their_order(start: Callable[..., list[Member]]) -> None:
    members = start(("gather",), ("gather",))
    for member in members:
        member.until("['text 0', 'text 1']")
    assert [member.end()[0] for member in members] == [0, 0]


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_killed_or_hangs_is_named_by_the_others(
    start: Callable[..., list[Member]], victim: int, how: signal.Signals
) -> None:
    members = start(("wait",), ("wait",))
    for member in members:
        member.until("waiting")
    began = time.monotonic()
    members[victim].process.send_signal(how)
    status, line = members[1 - victim].end()
    assert (status, line) == (
        LOST_STATUS,
        f"error: process {victim} on host n{victim} was lost; start again with the same command to go on",
    )
    assert time.monotonic() - began < TIMEOUT + 15


@pytest.mark.parametrize(
    ("action", "message"),
    [("fail", "the disk of this process is full"), ("crash", "ZeroDivisionError: a defect")],
)
@pytest.mark.parametrize("failing", [0, 1])
def test_the_error_of_one_process_is_what_the_others_end_with(
    start: Callable[..., list[Member]], failing: int, action: str, message: str
) -> None:
    members = start(*[(action,) if index == failing else ("wait",) for index in range(2)])
    assert members[failing].end() == (1, f"error: {message}")
    assert members[1 - failing].end() == (1, f"error: process {failing} on host n{failing} failed: {message}")


@pytest.mark.parametrize("asked", [0, 1])
def test_a_process_that_waits_obeys_sigterm_and_takes_the_others_along(
    start: Callable[..., list[Member]], asked: int
) -> None:
    members = start(("wait",), ("wait",))
    for member in members:
        member.until("waiting")
    members[asked].process.terminate()
    sentence = "stopped; start again with the same command to go on"
    assert [member.end() for member in members] == [(STOPPED_STATUS, sentence)] * 2


def test_processes_that_train_stop_at_the_same_question(start: Callable[..., list[Member]]) -> None:
    members = start(("train",), ("train",), timeout=30.0)
    for member in members:
        member.until("training")
    members[1].process.terminate()
    (status, line), other = (member.end() for member in members)
    assert status == STOPPED_STATUS
    assert line.startswith("stopped at question ")
    assert other == (status, line)


def test_a_process_that_never_comes_is_named() -> None:
    port = free_port()
    members = [Member(port, index, count=3, timeout=4.0) for index in (0, 2)]
    ends = [member.end() for member in members]
    assert [status for status, _ in ends] == [1, 1]
    assert ends[0][1] == ends[1][1]
    assert f"process 1 of 3 did not come to 127.0.0.1:{port} within 3 s" in ends[0][1]


@pytest.mark.parametrize("index", [0, 1])
def test_an_index_that_is_given_twice_is_named_with_both_hosts(index: int) -> None:
    port = free_port()
    indices = [0, 0] if index == 0 else [0, 1, 1]
    members = [
        Member(port, index, count=3, timeout=30.0, host=f"host{place}") for place, index in enumerate(indices)
    ]
    for member in members:
        status, line = member.end()
        assert status == 1
        assert f"--process_index={index} was given twice" in line
        assert "host0" in line or index
        assert "host1" in line


def test_different_numbers_of_processes_are_refused() -> None:
    port = free_port()
    members = [Member(port, 0, count=3, timeout=30.0), Member(port, 1, count=2, timeout=30.0)]
    for member in members:
        status, line = member.end()
        assert status == 1
        assert "--process_count=2 for process 1 on host n1 and 3 for process 0 on host n0" in line


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:port", "host:70000", "host:0"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="give host:port of process 0"):
        cluster.place_of(address or "x", 2, 1)


@pytest.mark.parametrize(("count", "index"), [(0, 0), (2, 2), (2, -1)])
def test_flags_that_name_no_process_are_refused(count: int, index: int) -> None:
    with pytest.raises(UserError, match=f"--process_index={index} and --process_count={count}"):
        cluster.place_of("127.0.0.1:1", count, index)


def test_auto_outside_of_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("SLURM", "OMPI", "TPU")):
            monkeypatch.delenv(name)
    with pytest.raises(UserError, match="--coordinator=auto: this is no task of Slurm"):
        cluster.place_of("auto", 1, 0)


def test_auto_on_kubernetes_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(UserError, match=r"pip install 'finetune-jax\[k8s\]', or give host:port"):
        cluster.place_of("auto", 1, 0)


def test_a_coordinator_that_does_not_answer_or_has_no_name_is_named() -> None:
    port = free_port()
    status, line = Member(port, 1, timeout=2.0).end()
    assert status == 1
    assert "could not reach process 0 within 2 s: Connection refused" in line


def test_a_port_that_becomes_free_in_a_moment_is_waited_for() -> None:
    # As after a kill: the coordination service of the last start still holds it.
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        threading.Timer(0.5, taken.close).start()
        attendance = roll_call.gather(roll_call.Place(f"127.0.0.1:{port}", 1, 0, "here"), 5.0)
    assert attendance.hosts == ("here",)
