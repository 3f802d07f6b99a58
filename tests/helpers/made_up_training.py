"""A training loop whose steps are a formula, without a network: to be interrupted anywhere."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from finetune_jax.algorithms import optimizers
from finetune_jax.devices.replicas import local_replicas
from finetune_jax.files import checkpoints
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


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail
