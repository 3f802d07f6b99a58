"""Processes that are killed, stopped or find the disk full: they end like an undisturbed one."""

import csv
import json
import os
import random
import resource
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from child_processes import SECONDS
from child_runs import EPOCHS, command_in, start, steps_there
from fork_server import Process

from finetune_jax.config.named_recipes import starting_config

KILLS = 6
DEVICES = "1 device (CPU)\n"
FIRST_WORDS = (
    "1 device ",
    "compiling ",
    "task: ",
    "resnet26_policy ",
    "--method=",
    "learning rate ",
    "epoch ",
)
SEED = int(os.environ.get("KILL_SEED", "0"))


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """About 0.2 s an epoch after 2 s of start."""
    return command_in(tmp_path_factory.mktemp("resume"))


def end(process: Process) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return process.returncode, out, err


def wait_for_checkpoints(process: Process, workdir: Path, count: int) -> None:
    """Until the process has written ``count`` new ones."""
    latest = max(steps_there(workdir), default=0)
    while count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
        now = max(steps_there(workdir), default=0)
        if now > latest:
            latest, count = now, count - 1


def outcome(workdir: Path) -> dict[str, Any]:
    """All that must not depend on interruptions, exactly; read without the code under test."""
    summary = json.loads((workdir / "summary.json").read_text())
    summary = {name: value for name, value in summary.items() if not name.startswith("seconds")}
    with (workdir / "metrics.csv").open(newline="") as lines:
        rows = [
            {name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(lines)
        ]
    arrays = {}
    with ocp.StandardCheckpointer() as reader:
        for number in steps_there(workdir):
            for item in ("variables", "training"):
                tree = reader.restore(workdir / "checkpoints" / str(number) / item)
                for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                    leaf = np.asarray(leaf)
                    key = f"{number} {item} {jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}"
                    arrays[key] = leaf.tobytes()
    assert len(arrays) > 50
    return {"summary": summary, "rows": rows, "arrays": arrays}


@pytest.fixture(scope="module")
def undisturbed(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory and the output of a run from start to end."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    status, out, err = end(start(command, workdir))
    assert status == 0, err
    return workdir, out


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_like_an_undisturbed_one(
    command: list[str], undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    print(f"KILL_SEED={SEED}")
    draw = random.Random(SEED)
    workdir = tmp_path / "run"
    for kill in range(KILLS):
        process = start(command, workdir)
        if kill == 1:
            time.sleep(draw.uniform(0, 3))  # somewhere between the start of Python and the first step
        else:
            wait_for_checkpoints(process, workdir, draw.randint(1, 2))
            time.sleep(draw.uniform(0, 0.05))
        process.kill()
        status, _, err = end(process)
        assert status == -signal.SIGKILL, err
        found = sorted(os.listdir(workdir / "checkpoints"))
        rows = (workdir / "metrics.csv").read_text().count("\n") - 1 if steps_there(workdir)[-1] >= 10 else 0
        print(f"kill {kill}: checkpoints {found}, {rows} rows")
    status, _, err = end(start(command, workdir))
    assert status == 0, err
    assert outcome(workdir) == outcome(undisturbed[0])


@pytest.mark.slow
def test_a_routed_run_that_was_killed_ends_like_an_undisturbed_one(
    command: list[str], tmp_path: Path
) -> None:
    routed = [*command, "--method=spottune", "--eval_samples=2", "--epochs=2"]
    status, _, err = end(start(routed, tmp_path / "undisturbed"))
    assert status == 0, err
    process = start(routed, tmp_path / "run")
    wait_for_checkpoints(process, tmp_path / "run", 1)
    process.kill()
    assert end(process)[0] == -signal.SIGKILL
    status, _, err = end(start(routed, tmp_path / "run"))
    assert status == 0, err
    assert outcome(tmp_path / "run") == outcome(tmp_path / "undisturbed")
    assert (tmp_path / "run/policy_usage.csv").read_bytes() == (
        tmp_path / "undisturbed/policy_usage.csv"
    ).read_bytes()


@pytest.mark.slow
def test_a_run_that_is_stopped_and_then_finds_the_disk_full_ends_like_an_undisturbed_one(
    command: list[str], undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    process = start(command, workdir)
    wait_for_checkpoints(process, workdir, 2)
    process.terminate()
    status, out, err = end(process)
    assert (status, out) == (143, "")
    assert err.splitlines()[-1].endswith(f"; the same command goes on from there ({workdir})")
    assert all(line.startswith(FIRST_WORDS) for line in err.splitlines()[:-1])

    process = start(command, workdir)
    wait_for_checkpoints(process, workdir, 1)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, 1))
    status, out, err = end(process)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert "cannot be written: File too large" in err or "could not be written (" in err
    assert err.splitlines()[-1].endswith("make room or choose another --workdir, then start again")
    assert "Traceback" not in err

    # Where the images are decoded, and how, may change on the way.
    status, _, err = end(start(command, workdir, "--decode_workers=1", f"--cache_dir={tmp_path / 'cache'}"))
    assert status == 0, err
    assert outcome(workdir) == outcome(undisturbed[0])


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_finished_run_answers_at_once_and_refuses_other_flags(
    command: list[str], undisturbed: tuple[Path, str]
) -> None:
    workdir, output = undisturbed
    before = contents(workdir)
    process = start(command, workdir)
    assert end(process) == (0, output, DEVICES)
    changed = [flag.replace("--batch_size=16", "--batch_size=32") for flag in command]
    status, out, err = end(start(changed, workdir, "--learning_rate=0.5"))
    assert (status, out) == (1, "")
    assert err == (
        f"{DEVICES}error: --workdir={workdir} holds a run with other flags: --batch_size=32 (was 16), "
        f"--learning_rate=0.5 (was {starting_config(optimizer='sgd').learning_rate}); give the same flags to go on "
        f"with it (python -m experiments.resume {workdir} does), or another --workdir\n"
    )
    assert contents(workdir) == before


def test_a_workdir_that_cannot_be_is_one_sentence(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    status, out, err = end(start(command, tmp_path / "file" / "run"))
    assert (status, out) == (1, "")
    assert (
        err == f"{DEVICES}error: --workdir={tmp_path / 'file' / 'run'} cannot be created: Not a directory\n"
    )


@pytest.mark.slow
def test_a_run_that_diverges_says_so_and_keeps_its_checkpoint(command: list[str], tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    diverging = ["--schedule=step", "--drop_epochs=1", "--drop_factor=1e30"]
    status, out, err = end(start(command, workdir, *diverging))
    assert (status, out) == (1, "")
    lines = err.splitlines()
    assert all(line.startswith(FIRST_WORDS) for line in lines[:-1])
    epochs, message = [line for line in lines if line.startswith("epoch ")], lines[-1]
    assert [line.split()[1] for line in epochs] == [f"1/{EPOCHS}"]
    assert "not finite by step" in message
    assert message.endswith("the last checkpoint is from before and intact")
    latest = steps_there(workdir)[-1]
    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore(workdir / "checkpoints" / str(latest) / "variables")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
