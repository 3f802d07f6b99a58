"""Several real processes on one machine train one run as one process would."""

import csv
import json
import resource
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import child_runs
import jax
import numpy as np
import pytest
from child_processes import SECONDS
from child_runs import EPOCHS, command_in
from fork_server import Process

from finetune_jax.devices.replicas import Replicas, local_replicas
from finetune_jax.errors import UserError

# --- one process ----------------------------------------------------------------------------------------


def test_each_process_takes_its_own_columns_of_the_batch() -> None:
    devices = tuple(jax.devices()[:2])
    order = np.arange(24).reshape(2, 12)
    shares = [Replicas(devices, index, 3).local_columns(order) for index in range(3)]
    assert [share.shape for share in shares] == [(2, 4)] * 3
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), order)


@pytest.mark.parametrize(
    ("batch_size", "advice"), [(3, "use 6"), (8, "use 6 or 12"), (13, "use 12 or 18"), (12, None), (6, None)]
)
def test_a_batch_that_the_devices_of_all_processes_cannot_share_is_refused(
    batch_size: int, advice: str | None
) -> None:
    replicas = Replicas(tuple(jax.devices()[:2]), 0, 3)
    if advice is None:
        replicas.check_batch_size(batch_size)
    else:
        message = f"--batch_size={batch_size} does not divide by the 6 devices; {advice}$"
        with pytest.raises(UserError, match=message):
            replicas.check_batch_size(batch_size)


def test_a_single_process_works_together_with_itself() -> None:
    replicas = local_replicas(jax.devices()[:1])
    with replicas.fail_together():
        pass
    with pytest.raises(UserError, match="mine"), replicas.fail_together():
        raise UserError("mine")


# --- two processes --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run over all devices."""
    return command_in(tmp_path_factory.mktemp("distributed"), "--sync_batch_norm")


def start(command: Sequence[str], workdir: Path, *more: str) -> Process:
    return child_runs.start(command, workdir, *more, threads=4)


def start_two(
    command: Sequence[str], workdir: Path, *more: str, caches: Sequence[Path] = ()
) -> list[Process]:
    """Two processes of a job, each with its own cache of decoded images if given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = [f"--coordinator=127.0.0.1:{port}", "--process_count=2"]
    own = [[f"--cache_dir={cache}"] for cache in caches] or [[], []]
    return [
        start(command, workdir, *job, f"--process_index={index}", *more, *own[index]) for index in range(2)
    ]


def end(processes: Sequence[Process], seconds: float = SECONDS) -> list[tuple[int, str, str]]:
    """Status, output and errors of each; never a process left behind."""
    deadline = time.monotonic() + seconds
    try:
        outputs = [
            process.communicate(timeout=max(0.0, deadline - time.monotonic())) for process in processes
        ]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def latest(workdir: Path) -> int:
    return max(child_runs.steps_there(workdir), default=0)


def wait_for_checkpoints(processes: Sequence[Process], workdir: Path, step: int) -> None:
    """Until there is one of at least this step."""
    while latest(workdir) < step:
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def numbers(workdir: Path) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Rows of the metrics and the summary, without what depends on the clock."""
    with (workdir / "metrics.csv").open(newline="") as lines:
        rows = [
            {name: float(cell) for name, cell in row.items() if cell and name != "seconds"}
            for row in csv.DictReader(lines)
        ]
    summary = json.loads((workdir / "summary.json").read_text())
    summary = {name: value for name, value in summary.items() if not name.startswith("seconds")}
    return rows, summary


@pytest.fixture(scope="module")
def alone(
    command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """What one process with two devices comes to."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    ((status, _, err),) = end([start(command, workdir, "--virtual_devices=2")])
    assert status == 0, err
    return numbers(workdir)


def assert_close(actual: Any, expected: tuple[list[dict[str, float]], dict[str, Any]]) -> None:
    assert len(actual[0]) == len(expected[0]) == EPOCHS
    for ours, theirs in zip(actual[0], expected[0], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    for name, value in expected[1].items():
        assert actual[1][name] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), (
            name
        )


@pytest.mark.slow
def test_two_processes_train_like_one_through_kills_stops_and_a_full_disk(
    command: list[str], alone: tuple[list[dict[str, float]], dict[str, Any]], tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    # Both are killed.
    processes = start_two(command, workdir)
    wait_for_checkpoints(processes, workdir, 4)
    for process in processes:
        process.kill()
    assert [status for status, _, _ in end(processes)] == [-signal.SIGKILL] * 2

    # Process 1 alone is asked to stop; the two agree on a step.
    reached = latest(workdir)
    processes = start_two(command, workdir)
    wait_for_checkpoints(processes, workdir, reached + 1)
    processes[1].send_signal(signal.SIGTERM)
    for status, _, err in end(processes):
        assert status == 143, err
        assert "the same command goes on from there" in err.splitlines()[-1]

    # Process 0, which alone writes, finds the disk full; process 1 does not wait for it for ever.
    reached = latest(workdir)
    processes = start_two(command, workdir)
    wait_for_checkpoints(processes, workdir, reached + 1)
    resource.prlimit(processes[0].pid, resource.RLIMIT_FSIZE, (1, 1))
    (status, _, err), (other_status, _, other_err) = end(processes)
    assert (status, other_status) == (1, 1), (err, other_err)
    assert err.splitlines()[-1].endswith("make room or choose another --workdir, then start again")
    assert other_err.splitlines()[-1].startswith(f"error: process 0 on host {socket.gethostname()} failed: ")
    assert other_err.splitlines()[-1].endswith(err.splitlines()[-1].removeprefix("error: "))

    processes = start_two(command, workdir)
    (status, out, err), (other_status, other_out, other_err) = end(processes)
    assert (status, other_status) == (0, 0), (err, other_err)
    assert "test accuracy" in out
    assert "test accuracy" not in other_out
    assert "epoch" not in other_err
    assert_close(numbers(workdir), alone)

    # Finished: both answer at once.
    for status, _, err in end(start_two(command, workdir)):
        assert status == 0, err


@pytest.mark.slow
def test_two_processes_save_their_shares_of_the_parameters_and_four_devices_go_on_with_them(
    command: list[str], alone: tuple[list[dict[str, float]], dict[str, Any]], tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    processes = start_two(command, workdir, "--shard_parameters")
    wait_for_checkpoints(processes, workdir, 14)
    for process in processes:
        process.kill()
    end(processes)
    assert list((workdir / "checkpoints" / str(latest(workdir)) / "variables").glob("ocdbt.process_1"))

    # What process 0 had not finished is gone; then with another number of devices, in one process.
    processes = start_two(command, workdir, "--shard_parameters")
    wait_for_checkpoints(processes, workdir, latest(workdir) + 1)
    processes[1].send_signal(signal.SIGTERM)
    for status, _, err in end(processes):
        assert status == 143, err
    ((status, _, err),) = end([start(command, workdir, "--shard_parameters", "--virtual_devices=4")])
    assert status == 0, err
    assert "of parameters and optimiser on each of 4 devices instead of" in err
    # How far blocks moved would take a second copy of the weights.
    expected = [{k: v for k, v in row.items() if k != "sorting_quality"} for row in alone[0]]
    scores = {name: value for name, value in alone[1].items() if name.startswith("test_")}
    assert scores
    assert_close(numbers(workdir), (expected, scores))


@pytest.mark.slow
def test_two_processes_that_have_half_of_the_images_each_equal_one_bit_for_bit_also_after_kills(
    command: list[str], tmp_path: Path
) -> None:
    one = [*command, f"--cache_dir={tmp_path / 'one'}", "--data_shards=2", "--virtual_devices=2"]
    ((status, _, err),) = end([start(one, tmp_path / "alone")])
    assert status == 0, err
    workdir, caches = tmp_path / "run", [tmp_path / "first", tmp_path / "second"]
    processes = start_two(command, workdir, "--data_shards=process", caches=caches)
    wait_for_checkpoints(processes, workdir, 14)
    for process in processes:
        process.kill()
    assert "images in 2 shards, 1 of each process" in end(processes)[0][2]
    sizes = [sum(file.stat().st_size for file in cache.rglob("images.npy")) for cache in caches]
    everything = sum(file.stat().st_size for file in (tmp_path / "one").rglob("images.npy"))
    assert sizes == [pytest.approx(everything / 2, rel=0.05)] * 2

    # Going on: by both, and in the end by one process, which has the shards of both.
    processes = start_two(command, workdir, "--data_shards=process", caches=caches)
    wait_for_checkpoints(processes, workdir, latest(workdir) + 1)
    processes[1].send_signal(signal.SIGTERM)
    for status, _, err in end(processes):
        assert status == 143, err
    assert json.loads((workdir / "flags.json").read_text())["resolved"]["data_shards"] == 2
    alone = ["--data_shards=process", "--virtual_devices=2"]
    ((status, _, err),) = end([start(command, workdir, *alone)])
    assert status == 0, err
    (ours, our_summary), (theirs, their_summary) = numbers(workdir), numbers(tmp_path / "alone")
    assert ours == theirs
    assert our_summary == their_summary


@pytest.mark.slow
def test_two_processes_reject_and_accept_the_trials_that_one_would_also_after_a_kill(
    command: list[str], tmp_path: Path
) -> None:
    autolr = ["--method=autolr", "--learning_rate=0.01", "--threshold=1", "--max_trials=3", "--epochs=2"]
    ((status, _, err),) = end([start([*command, *autolr], tmp_path / "alone", "--virtual_devices=2")])
    assert status == 0, err
    assert "rejected" in err
    workdir = tmp_path / "run"
    processes = start_two([*command, *autolr], workdir)
    wait_for_checkpoints(processes, workdir, 14)  # in the second trial
    for process in processes:
        process.kill()
    end(processes)
    for status, _, err in end(start_two([*command, *autolr], workdir)):
        assert status == 0, err
    (ours, our_summary), (theirs, their_summary) = numbers(workdir), numbers(tmp_path / "alone")
    assert our_summary["passes"] == their_summary["passes"] > 2
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
def test_two_processes_route_like_one_also_after_a_kill(command: list[str], tmp_path: Path) -> None:
    # The penalty is of the usage in the batch of both processes; the policy draws by the place in that batch.
    routed = ["--method=spottune_global", "--k=1", "--epochs=2"]
    ((status, _, err),) = end([start([*command, *routed], tmp_path / "alone", "--virtual_devices=2")])
    assert status == 0, err
    workdir = tmp_path / "run"
    processes = start_two([*command, *routed], workdir)
    wait_for_checkpoints(processes, workdir, 4)
    for process in processes:
        process.kill()
    end(processes)
    for status, _, err in end(start_two([*command, *routed], workdir)):
        assert status == 0, err
    (ours, our_summary), (theirs, their_summary) = numbers(workdir), numbers(tmp_path / "alone")
    assert our_summary["tuned_blocks"] == their_summary["tuned_blocks"]
    assert 0 < sum(our_summary["usage"].values()) < 3
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-4)


def test_a_batch_that_two_processes_cannot_share_is_refused_by_both(
    command: list[str], tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    for status, out, err in end(start_two(command, workdir, "--batch_size=15")):
        assert status == 1, (out, err)
        assert "error: --batch_size=15 does not divide by the 2 devices; use 14 or 16\n" in err
    assert not workdir.exists()
