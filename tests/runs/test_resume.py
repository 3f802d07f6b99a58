"""Going on after a kill, a stop, a full disk or a divergence: the end is that of an undisturbed run.

The first half drives ``training.fit`` with a made-up step, the second half real processes.
"""

import csv
import dataclasses
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from finetune_jax import models
from finetune_jax.algorithms import optimizers
from finetune_jax.devices.replicas import local_replicas
from finetune_jax.errors import Stopped, UserError
from finetune_jax.files import checkpoints
from finetune_jax.files.checkpoints import Checkpoints
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.training import loop, saving, tuning
from finetune_jax.training.plan import Plan
from finetune_jax.training.state import TrainState, create_state

STEPS = 5
REPLICAS = local_replicas(jax.devices()[:1])
OPTIMIZER = optimizers.per_block_sgd({"head": None}, {"head": 0.0})


def start_state() -> TrainState:
    variables = {"params": {"head": {"w": np.ones(3, np.float32)}}, "batch_stats": {"head": {}}}
    return jax.device_get(create_state(variables, ("head",), OPTIMIZER, key=jax.random.key(0)))


def order(epoch: int) -> np.ndarray:
    return np.random.default_rng(epoch).permutation(4 * STEPS).reshape(STEPS, 4).astype(np.int32)


def rates(epoch: int) -> dict[str, float]:
    return {"head": 1 / (1 + epoch)}


def made_up_step(state: TrainState, row: np.ndarray) -> TrainState:
    """Depends on everything a checkpoint must bring back: weights, rate, position, sums of the epoch."""
    state = jax.device_get(state)
    rate = float(optimizers.get_learning_rates(state.opt_state)["head"])
    w = state.params["head"]["w"] * np.float32(0.9) + np.float32(rate) * np.sin(row[:3] + state.step)
    w += state.totals["loss"] * np.float32(0.01)
    return state.replace(
        step=state.step + 1,
        params={"head": {"w": w.astype(np.float32)}},
        totals={
            "loss": state.totals["loss"] + np.float32(abs(w).sum()),
            "correct": state.totals["correct"] + np.float32(row[0] < 10),
            "examples": state.totals["examples"] + np.float32(len(row)),
        },
    )


def made_up_training(
    before: Callable[[int], None] = lambda step: None,
    spoil: Callable[[TrainState], TrainState] = lambda state: state,
) -> Callable[[TrainState, np.ndarray], Iterator[tuple[TrainState, int]]]:
    """``before`` is called with the number of each step (from 1), ``spoil`` with each state after it."""

    def train(state: TrainState, rows: np.ndarray) -> Iterator[tuple[TrainState, int]]:
        for row in rows:
            before(int(state.step) + 1)
            state = spoil(made_up_step(state, row))
            yield state, 1

    return train


def evaluate(state: TrainState) -> dict[str, float]:
    return {"accuracy": float(np.cos(1e3 * np.asarray(state.params["head"]["w"]).sum()))}


PLAN = Plan(
    epochs=3,
    batch_size=4,
    order=order,
    tuner=tuning.FixedRates((), rates),
    evaluate=evaluate,
    score="accuracy",
    patience=0,
    checkpoint_steps=2,
    card={"network": "made up"},
)


def fit(path: Path, plan: Plan = PLAN, train: Any = None) -> list[dict[str, str]]:
    path.mkdir(exist_ok=True)
    return loop.fit(start_state(), train or made_up_training(), plan, REPLICAS, RunDirectory(path))


def scores(*values: float) -> Callable[[TrainState], Mapping[str, float]]:
    """An evaluation with these results, one epoch after the other."""
    return lambda state: {"accuracy": values[int(state.step) // STEPS - 1]}


def result(path: Path) -> dict[str, Any]:
    """All that must not depend on interruptions, exactly."""
    folder = path / "checkpoints"
    states = {}
    for number in {checkpoints.latest_step(folder), checkpoints.best_step(folder)}:
        state = saving.restore_state(folder, number, start_state())
        states[number] = [leaf.tobytes() for leaf in jax.tree.leaves(state)]
        states[f"meta {number}"] = checkpoints.read_meta(folder, number)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in RunDirectory(path).read_metrics()]
    return {"states": states, "rows": rows}


class PowerCut(BaseException):
    pass


def cut_at(number: int) -> Callable[[int], None]:
    def before(step: int) -> None:
        if step == number:
            raise PowerCut

    return before


def ask_to_stop_at(number: int) -> Callable[[int], None]:
    def before(step: int) -> None:
        if step == number:
            os.kill(os.getpid(), signal.SIGTERM)

    return before


# --- interruptions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint_steps", [0, 2, 5])
def test_interruptions_anywhere_change_nothing(tmp_path: Path, checkpoint_steps: int) -> None:
    plan = dataclasses.replace(PLAN, checkpoint_steps=checkpoint_steps)
    fit(tmp_path / "undisturbed", plan)
    path = tmp_path / "run"
    for number in (1, 2, 4, 4, 5, 6, 7, 9, 10, 11, 14, 15):
        with pytest.raises(PowerCut):
            fit(path, plan, made_up_training(cut_at(number)))
    rows = fit(path, plan)
    assert [row["step"] for row in rows] == ["5", "10", "15"]
    assert result(path) == result(tmp_path / "undisturbed")


def test_an_interruption_during_evaluation_changes_nothing(tmp_path: Path) -> None:
    fit(tmp_path / "undisturbed")

    def cut(state: TrainState) -> Mapping[str, float]:
        raise PowerCut

    path = tmp_path / "run"
    with pytest.raises(PowerCut):
        fit(path, dataclasses.replace(PLAN, evaluate=cut))
    fit(path)
    assert result(path) == result(tmp_path / "undisturbed")


def test_rows_that_were_written_before_a_kill_lost_their_checkpoint_are_written_once(tmp_path: Path) -> None:
    fit(tmp_path / "undisturbed")
    path = tmp_path / "run"
    with pytest.raises(PowerCut):
        fit(path, train=made_up_training(cut_at(8)))
    # The row of epoch 2 is there, its checkpoint is not; and the kill came while epoch 3 was being written.
    with (path / "metrics.csv").open("a") as file:
        file.write("2,10,9.9,9.9,9.9,9.9,9.9\r\n3,1")
    fit(path)
    assert result(path) == result(tmp_path / "undisturbed")


def test_rows_of_a_run_killed_before_its_first_checkpoint_are_written_once(tmp_path: Path) -> None:
    fit(tmp_path / "undisturbed")
    path = tmp_path / "run"
    path.mkdir()
    shutil.copy(tmp_path / "undisturbed" / "metrics.csv", path)
    fit(path)
    assert result(path) == result(tmp_path / "undisturbed")


def test_the_training_numbers_are_of_each_epoch_alone(tmp_path: Path) -> None:
    rows = fit(tmp_path)
    expected = [np.mean(order(epoch)[:, 0] < 10) / 4 for epoch in range(3)]
    assert len(set(expected)) > 1
    assert [float(row["train_accuracy"]) for row in rows] == pytest.approx(expected)


def test_a_finished_plan_trains_no_more(tmp_path: Path) -> None:
    rows = fit(tmp_path)

    def refuse(step: int) -> None:
        raise AssertionError("trained on")

    assert fit(tmp_path, train=made_up_training(refuse)) == rows


def test_every_epoch_trains_with_its_rates_also_when_it_is_gone_on_with(tmp_path: Path) -> None:
    seen = {}

    def note(state: TrainState) -> TrainState:
        seen[int(state.step)] = float(optimizers.get_learning_rates(state.opt_state)["head"])
        return state

    with pytest.raises(PowerCut):
        fit(tmp_path, train=made_up_training(cut_at(8), note))
    fit(tmp_path, train=made_up_training(spoil=note))
    assert seen == {step: pytest.approx(1 / (1 + (step - 1) // STEPS)) for step in range(1, 16)}


# --- being asked to stop --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 3, 5, 8, 15])
def test_asked_to_stop_it_saves_that_very_step_and_goes_on_to_the_same_end(
    tmp_path: Path, number: int
) -> None:
    plan = dataclasses.replace(PLAN, checkpoint_steps=0)
    fit(tmp_path / "undisturbed", plan)
    path = tmp_path / "run"
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        fit(path, plan, made_up_training(ask_to_stop_at(number)))
    assert signal.getsignal(signal.SIGTERM) == handler
    assert checkpoints.latest_step(path / "checkpoints") == number
    assert len(RunDirectory(path).read_metrics()) == number // STEPS
    fit(path, plan)
    assert result(path) == result(tmp_path / "undisturbed")


def test_asked_to_stop_during_evaluation_it_stops_after_the_epoch(tmp_path: Path) -> None:
    def interrupted(state: TrainState) -> Mapping[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(state)

    with pytest.raises(Stopped):
        fit(tmp_path, dataclasses.replace(PLAN, evaluate=interrupted))
    assert checkpoints.latest_step(tmp_path / "checkpoints") == STEPS


def test_stopped_is_only_said_when_all_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "close", raising(UserError("disk full")))
    with pytest.raises(UserError, match="disk full"):
        fit(tmp_path, train=made_up_training(ask_to_stop_at(3)))


# --- choosing the best and stopping early ---------------------------------------------------------------


def test_early_stopping_waits_for_its_patience_and_keeps_the_best(tmp_path: Path) -> None:
    plan = dataclasses.replace(
        PLAN, epochs=9, patience=2, checkpoint_steps=0, evaluate=scores(0.1, 0.5, 0.2, 0.4, 0.9)
    )
    rows = fit(tmp_path / "whole", plan)
    # 0.5 in epoch 2, then two epochs without a better one; 0.9 is never seen.
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert checkpoints.best_step(tmp_path / "whole" / "checkpoints") == 2 * STEPS
    path = tmp_path / "interrupted"
    for number in (3, 8, 12, 18):
        with pytest.raises(PowerCut):
            fit(path, plan, made_up_training(cut_at(number)))
    fit(path, plan)
    assert result(path) == result(tmp_path / "whole")
    # Killed after the last epoch, before the summary.
    assert fit(path, plan) == RunDirectory(path).read_metrics()
    assert result(path) == result(tmp_path / "whole")


def test_an_equal_score_is_no_better_one(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, epochs=9, patience=2, evaluate=scores(0.5, 0.5, 0.5, 0.9))
    assert len(fit(tmp_path, plan)) == 3


def test_a_score_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    nan = float("nan")
    plan = dataclasses.replace(PLAN, epochs=4, evaluate=scores(nan, 0.2, nan, nan))
    rows = fit(tmp_path, plan)
    assert [row["accuracy"] for row in rows] == ["nan", "0.2", "nan", "nan"]
    assert checkpoints.best_step(tmp_path / "checkpoints") == 2 * STEPS
    assert checkpoints.latest_step(tmp_path / "checkpoints") == 4 * STEPS


def test_without_a_score_the_last_epoch_counts(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, score="", evaluate=lambda state: {})
    fit(tmp_path, plan)
    assert checkpoints.best_step(tmp_path / "checkpoints") == 3 * STEPS


# --- failing --------------------------------------------------------------------------------------------


def poisoned(number: int, where: str) -> Callable[[TrainState], TrainState]:
    def spoil(state: TrainState) -> TrainState:
        if int(state.step) < number:
            return state
        if where == "loss":
            return state.replace(totals=state.totals | {"loss": np.float32(np.nan)})
        return state.replace(params={"head": {"w": np.array([1, np.inf, 1], np.float32)}})

    return spoil


@pytest.mark.parametrize("where", ["loss", "weights"])
@pytest.mark.parametrize("number", [2, 7, 8, 10])
def test_what_diverged_is_never_saved(tmp_path: Path, where: str, number: int) -> None:
    with pytest.raises(UserError, match=r"not finite by step \d+: lower --learning_rate"):
        fit(tmp_path, train=made_up_training(spoil=poisoned(number, where)))
    folder = tmp_path / "checkpoints"
    latest = checkpoints.latest_step(folder)
    assert latest == {2: None, 7: 6, 8: 6, 10: 8}[number]
    assert checkpoints.best_step(folder) == (None if number == 2 else 5)
    if latest:
        state = saving.restore_state(folder, latest, start_state())
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_the_first_error_is_the_one_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "close", raising(UserError("disk full")))
    with pytest.raises(UserError, match="not finite"):
        fit(tmp_path, train=made_up_training(spoil=poisoned(2, "loss")))


def test_an_error_at_the_very_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "close", raising(UserError("disk full")))
    with pytest.raises(UserError, match="disk full"):
        fit(tmp_path)


@pytest.mark.parametrize("failing", ["posix_fallocate", "fsync"])
def test_after_a_full_disk_it_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    fit(tmp_path / "undisturbed")
    path = tmp_path / "run"
    full = raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with monkeypatch.context() as patch:

        def fill(step: int) -> None:
            if step == 9:
                patch.setattr(os, failing, full)

        with pytest.raises(UserError, match="No space left on device"):
            fit(path, train=made_up_training(fill))
    assert checkpoints.latest_step(path / "checkpoints") == 8
    fit(path)
    assert result(path) == result(tmp_path / "undisturbed")


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


# --- real processes -------------------------------------------------------------------------------------

REPOSITORY = Path(__file__).parents[2]
EPOCHS = 6
KILLS = 6
SEED = int(os.environ.get("KILL_SEED", "0"))


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run of 6 epochs of 10 steps with 3 checkpoints each: about 0.2 s an epoch after 2 s of start."""
    home = tmp_path_factory.mktemp("resume")
    write_weights(home / "weights.npz")
    rng = np.random.default_rng(0)
    for label in range(4):
        folder = home / "photos" / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(60):
            pixels = rng.integers(0, 100, (8, 8, 3))
            pixels[:, 2 * label : 2 * label + 2] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return [
        sys.executable,
        "-m",
        "experiments.finetune",
        f"--dataset=folder:{home / 'photos'}",
        f"--cache_dir={home / 'cache'}",
        f"--compilation_cache={tmp_path_factory.getbasetemp() / 'compiled'}",
        f"--pretrained={home / 'weights.npz'}",
        "--network=resnet26_policy",
        "--width=0.125",
        "--image_size=8",
        "--batch_size=16",
        f"--epochs={EPOCHS}",
        "--checkpoint_steps=4",
    ]


def write_weights(path: Path) -> None:
    """Some weights: reading them is faster than compiling their initialisation."""
    network = models.create("resnet26_policy", num_classes=2, width=0.125)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: (float(leaf.ndim == 1) + 0.1 * rng.normal(size=leaf.shape)).astype(leaf.dtype),
        network.shapes(),
    )
    np.savez(path, **models.to_torch_state(network, variables))


def start(command: Sequence[str], workdir: Path, *more: str) -> subprocess.Popen[str]:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "NPROC": "2",  # the number of threads changes the last bits
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *more],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, out, err


def steps_there(workdir: Path) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(name) for name in os.listdir(folder) if name.isdigit()) if folder.exists() else []


def wait_for_checkpoints(process: subprocess.Popen[str], workdir: Path, count: int) -> None:
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
    assert err.splitlines()[-1] == f"stopped; start again with the same flags to go on ({workdir})"
    assert all(line.startswith(("learning rate ", "epoch ")) for line in err.splitlines()[:-1])

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
    assert end(process) == (0, output, "")
    changed = [flag.replace("--batch_size=16", "--batch_size=32") for flag in command]
    status, out, err = end(start(changed, workdir, "--learning_rate=0.5"))
    assert (status, out) == (1, "")
    assert err == (
        f"error: --workdir={workdir} holds a run with other flags: --batch_size=32 (was 16), "
        "--learning_rate=0.5 (was 0.01); give the same flags to go on with it, or another --workdir\n"
    )
    assert contents(workdir) == before


def test_a_workdir_that_cannot_be_is_one_sentence(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    status, out, err = end(start(command, tmp_path / "file" / "run"))
    assert (status, out) == (1, "")
    assert err == f"error: --workdir={tmp_path / 'file' / 'run'} cannot be created: Not a directory\n"


@pytest.mark.slow
def test_a_run_that_diverges_says_so_and_keeps_its_checkpoint(command: list[str], tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    diverging = ["--schedule=step", "--drop_epochs=1", "--drop_factor=1e30"]
    status, out, err = end(start(command, workdir, *diverging))
    assert (status, out) == (1, "")
    rates, *epochs, message = err.splitlines()
    assert rates.startswith("learning rate ")
    assert [line.split()[1] for line in epochs] == [f"1/{EPOCHS}"]
    assert "not finite by step" in message
    assert message.endswith("the last checkpoint is from before and intact")
    latest = steps_there(workdir)[-1]
    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore(workdir / "checkpoints" / str(latest) / "variables")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
