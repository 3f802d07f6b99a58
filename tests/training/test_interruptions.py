"""The training loop: interrupted, asked to stop, or failing, it goes on to the same end."""

import dataclasses
import errno
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
import pytest
from made_up_training import (
    PLAN,
    REPLICAS,
    STEPS,
    PowerCut,
    ask_to_stop_at,
    cut_at,
    evaluate,
    fit,
    made_up_training,
    order,
    raising,
    result,
    scores,
    start_state,
)

from finetune_jax.algorithms import optimizers
from finetune_jax.errors import Stopped, UserError
from finetune_jax.files import checkpoints
from finetune_jax.files.checkpoints import Checkpoints
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.training import saving, tuning
from finetune_jax.training.state import TrainState

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


@pytest.mark.parametrize(("renews", "at_the_start_of_each_epoch"), [(False, [0, 1, 1]), (True, [0, 0, 0])])
def test_momentum_is_kept_from_epoch_to_epoch_unless_the_tuner_renews_it(
    renews, at_the_start_of_each_epoch, tmp_path
):
    class Renewing(tuning.FixedRates):
        pass

    Renewing.renews = renews
    seen = []

    def with_momentum(state, value):
        traces = jax.tree_util.tree_map_with_path(
            lambda path, leaf: np.full_like(leaf, value) if "trace" in str(path) else leaf, state.opt_state
        )
        return state.replace(opt_state=traces)

    def train(state, rows):
        leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
        seen.append({float(leaf.max()) for path, leaf in leaves if "trace" in str(path)})
        for after, taken in made_up_training()(state, rows):
            yield REPLICAS.replicate(with_momentum(jax.device_get(after), 1.0)), taken

    fit(tmp_path / "run", dataclasses.replace(PLAN, tuner=Renewing((), PLAN.tuner.schedule)), train)
    assert seen == [{value} for value in at_the_start_of_each_epoch]
