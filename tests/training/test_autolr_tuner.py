"""AutoLR in the training loop: Algorithm 2 in NumPy, interrupted and diverging trials."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_jax.algorithms import optimizers
from finetune_jax.algorithms.autolr import AutoLRConfig
from finetune_jax.data.batch import Batch
from finetune_jax.devices.replicas import local_replicas
from finetune_jax.errors import Diverged
from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.training import loop, saving, step
from finetune_jax.training.methods.autolr import AutoLRTuner
from finetune_jax.training.plan import Plan
from finetune_jax.training.state import TrainState, create_state
from finetune_jax.training.step import Outcome

STEPS, EPOCHS, BATCH = 4, 4, 2


BLOCKS = ("block_01", "block_02", "block_03", "block_04")
PARTS = ("stem", *BLOCKS, "head")
# Far from ascending, and unequal enough for rejected trials in three epochs, two of them in the first.
SCALES = dict(zip(PARTS, (0.9, 1.1, 9.2, 0.5, 3.8, 6.5), strict=True))


RATE, HEAD_RATE = 0.02, 0.01


MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4


CONFIG = AutoLRConfig()
REPLICAS = local_replicas(jax.devices()[:1])
OPTIMIZER = optimizers.per_block_sgd(
    dict.fromkeys(PARTS), dict.fromkeys(PARTS, 0.0), momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
)


def start_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {name: rng.normal(size=(3, 2)).astype(np.float32) for name in PARTS}


def order(epoch: int) -> np.ndarray:
    return np.random.default_rng(epoch).permutation(STEPS * BATCH).reshape(STEPS, BATCH).astype(np.int32)


def decay(epoch: int) -> float:
    return 0.2 if epoch >= 3 else 1.0


def gradient(name: str, weights: Any, labels: Any, module: Any) -> Any:
    """Of a made-up loss, quadratic in each part's weights; in NumPy or JAX."""
    curvature, slope = 1.2 + module.sin(1.0 * labels).mean(), 0.1 * module.cos(1.0 * labels).mean()
    return SCALES[name] * (curvature * weights + slope)


def objective(params: Any, frozen: Any, batch_stats: Any, batch: Batch, key: jax.Array) -> Any:
    loss = 0.0
    for name in PARTS:
        w = params[name]["kernel"]
        constant = jax.lax.stop_gradient(gradient(name, w, batch.labels, jnp))
        loss += (constant * w).sum()
    # Statistics and totals depend on the random key, as augmentations do.
    noise = jax.random.uniform(key)
    stats = {"head": {"mean": 0.9 * batch_stats["head"]["mean"] + noise}}
    return loss, Outcome(stats, {"loss": jnp.abs(loss) + noise, "examples": jnp.float32(BATCH)})


@jax.jit
def one_step(state: TrainState, batch: Batch) -> TrainState:
    return step.train_step(state, batch, objective=objective, optimizer=OPTIMIZER)


def start_state() -> TrainState:
    params = {name: {"kernel": w} for name, w in start_weights().items()}
    stats = {name: {} for name in PARTS} | {"head": {"mean": np.zeros((), np.float32)}}
    variables = {"params": params, "batch_stats": stats}
    created = create_state(variables, PARTS, OPTIMIZER, key=jax.random.key(0), totals=("loss", "examples"))
    return jax.device_get(created)


def train_with(
    before: Callable[[], None] = lambda: None, spoil: Callable[[TrainState], TrainState] = lambda s: s
) -> Callable[[TrainState, np.ndarray], Iterator[tuple[TrainState, int]]]:
    def train(state: TrainState, rows: np.ndarray) -> Iterator[tuple[TrainState, int]]:
        for row in rows:
            before()
            batch = Batch(jnp.zeros((BATCH, 1)), jnp.asarray(row), jnp.arange(BATCH))
            state = spoil(one_step(state, batch))
            yield state, 1

    return train


def tuner(**changes: Any) -> AutoLRTuner:
    config = dataclasses.replace(CONFIG, **changes)
    return AutoLRTuner(config, BLOCKS, RATE, {"head": HEAD_RATE}, "stem", decay)


def plan(**changes: Any) -> Plan:
    settings = {
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "order": order,
        "tuner": tuner(),
        "evaluate": lambda state: {
            "accuracy": float(np.cos(1e3 * np.asarray(state.params["head"]["kernel"]).sum()))
        },
        "score": "accuracy",
        "patience": 0,
        "checkpoint_steps": 0,
        "card": {},
    }
    return Plan(**{**settings, **changes})


def fit(path: Path, train: Any = None, **changes: Any) -> list[dict[str, str]]:
    path.mkdir(exist_ok=True)
    return loop.fit(start_state(), train or train_with(), plan(**changes), REPLICAS, RunDirectory(path))


# --- Algorithm 2 in NumPy ------------------------------------------------------------------------------------


def quality_of(v: np.ndarray) -> float:
    ranks = np.argsort(np.argsort(v, kind="stable"), kind="stable")
    return 1 - 2 / len(v) ** 2 * np.abs(np.arange(len(v)) - ranks).sum()


def targets_of(v: np.ndarray, epoch: int) -> np.ndarray:
    count = len(v)
    if epoch == 0:
        first, last = CONFIG.alpha * v.min(), CONFIG.beta * v.max()
        if last <= first:
            first, last = v.min(), v.max()
        return np.linspace(first, last, count)
    t, centre, d = v.copy(), count // 2, (v.max() - v.min()) / (count - 1)
    for k in range(centre + 1, count):
        t[k] = v[k] if v[k] >= t[k - 1] else t[k - 1] + d
    for k in range(centre - 1, -1, -1):
        t[k] = v[k] if v[k] <= t[k + 1] else t[k + 1] - d
    return np.maximum(t, 0.1 * v.min())


def restated() -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Every trial of the whole run, and the final weights, in float64."""
    weights = {name: w.astype(np.float64) for name, w in start_weights().items()}
    rates, threshold, renewed, trials = np.full(len(BLOCKS), RATE), CONFIG.threshold, False, []
    for epoch in range(EPOCHS):
        if epoch > 0 and threshold > CONFIG.threshold_floor:
            threshold *= CONFIG.threshold_decay
        targets = None
        for trial in range(CONFIG.max_trials):
            per_part = dict(zip(BLOCKS, rates, strict=True))
            per_part |= {"stem": rates[0] * (0.5 if renewed else 1), "head": HEAD_RATE}
            w = {name: value.copy() for name, value in weights.items()}
            buffers = {name: np.zeros((3, 2)) for name in PARTS}
            for row in order(epoch):
                for name in PARTS:
                    g = gradient(name, w[name], row, np) + WEIGHT_DECAY * w[name]
                    buffers[name] = MOMENTUM * buffers[name] + g
                    w[name] -= decay(epoch) * per_part[name] * (g + MOMENTUM * buffers[name])
            v = np.array([np.linalg.norm(w[name] - weights[name]) / 6 for name in BLOCKS])
            accepted = round(quality_of(v), 3) >= threshold or trial == CONFIG.max_trials - 1
            trials.append(
                {"epoch": epoch, "accepted": accepted, "v": v, "rates": per_part, "decay": decay(epoch)}
            )
            if accepted:
                break
            if targets is None:
                targets = targets_of(v, epoch)
            rates, renewed = rates * targets / v, True
        weights = w
    return trials, weights


def test_a_whole_run_is_algorithm_2(tmp_path: Path) -> None:
    expected, weights = restated()
    rejected = [trial["epoch"] for trial in expected if not trial["accepted"]]
    assert rejected == [0, 0, 1, 2]  # or little would be tested
    fit(tmp_path)
    rows = RunDirectory(tmp_path).read_passes()
    assert [int(row["accepted"]) for row in rows] == [int(trial["accepted"]) for trial in expected]
    for row, trial in zip(rows, expected, strict=True):
        assert int(row["epoch"]) == trial["epoch"] + 1
        assert float(row["sorting_quality"]) == pytest.approx(quality_of(trial["v"]), abs=1e-6)
        for name, rate in trial["rates"].items():
            assert float(row[f"rate/{name}"]) == pytest.approx(rate * trial["decay"], rel=1e-3), name
        found = [float(row[f"variation/{name}"]) for name in BLOCKS]
        np.testing.assert_allclose(found, trial["v"], rtol=1e-3)
    latest = checkpoints.latest_step(tmp_path / "checkpoints")
    assert latest == len(expected) * STEPS  # rejected trials count as cost
    state = saving.restore_state(tmp_path / "checkpoints", latest, start_state())
    for name in PARTS:
        np.testing.assert_allclose(state.params[name]["kernel"], weights[name], rtol=1e-3, atol=1e-6)


# --- interruptions -------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    pass


def result(path: Path) -> dict[str, Any]:
    folder = path / "checkpoints"
    directory = RunDirectory(path)
    latest = checkpoints.latest_step(folder)
    state = saving.restore_state(folder, latest, start_state())
    trials = {}
    for number in checkpoints.whole_steps(path / "trials"):
        saved = checkpoints.restore_item(path / "trials", number, "tuning", tuner().initial())
        trials[number] = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(saved)]
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in directory.read_metrics()]
    return {
        "latest": latest,
        "best": checkpoints.best_step(folder),
        "state": [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)],
        "rows": rows,
        "passes": directory.read_passes(),
        "trials": trials,
    }


@functools.cache
def total_steps() -> int:
    return len(restated()[0]) * STEPS


# Epochs end after steps 12, 20, 28 and 32; trials of four steps before are rejected.
@pytest.mark.parametrize(
    ("checkpoint_steps", "killed_before"),
    [
        # The very first, within the first trial, the first of the next trial, within an accepted one after two rejected
        # ones, the first of an epoch, within a later one, the last.
        (0, (1, 3, 5, 10, 13, 23, 32)),
        # The same between and right after checkpoints within a trial, and where rates have decayed.
        (3, (1, 4, 5, 8, 13, 31)),
    ],
)
def test_a_kill_at_any_step_of_any_trial_changes_nothing(
    tmp_path: Path, checkpoint_steps: int, killed_before: tuple[int, ...]
) -> None:
    assert [epoch["epoch"] for epoch in restated()[0]] == [0, 0, 0, 1, 1, 2, 2, 3]
    fit(tmp_path / "undisturbed", checkpoint_steps=checkpoint_steps)
    expected = result(tmp_path / "undisturbed")
    for number in killed_before:
        path = tmp_path / str(number)
        taken = []

        def cut(taken: list[int] = taken, number: int = number) -> None:
            taken.append(1)
            if len(taken) == number:
                raise PowerCut

        with pytest.raises(PowerCut):
            fit(path, train_with(cut), checkpoint_steps=checkpoint_steps)
        fit(path, checkpoint_steps=checkpoint_steps)
        assert result(path) == expected, f"killed before step {number}"


def test_a_rejected_trial_is_not_trained_again_after_a_kill(tmp_path: Path) -> None:
    first_rejected = restated()[0][0]
    assert not first_rejected["accepted"]
    taken: list[int] = []

    def cut() -> None:
        taken.append(1)
        if len(taken) == STEPS + 2:  # in the second trial of the first epoch
            raise PowerCut

    with pytest.raises(PowerCut):
        fit(tmp_path, train_with(cut))
    again: list[int] = []
    fit(tmp_path, train_with(lambda: again.append(1)))
    assert len(again) == total_steps() - STEPS


def test_a_rejected_trial_costs_no_checkpoint_and_is_recorded(tmp_path: Path) -> None:
    saved = []

    class Spy(checkpoints.Checkpoints):
        def save(self, number: int, *arguments: Any, **more: Any) -> None:
            if not self._directory.name.startswith("trials"):
                saved.append(number)
            super().save(number, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "Checkpoints", Spy)
        fit(tmp_path)
    trials = restated()[0]
    accepted = [(number + 1) * STEPS for number, trial in enumerate(trials) if trial["accepted"]]
    assert saved == accepted
    assert checkpoints.whole_steps(tmp_path / "trials") == list(range(len(trials)))
    meta = checkpoints.read_meta(tmp_path / "trials", 0)
    assert meta["accepted"] is False
    assert json.loads(json.dumps(meta["row"]))["trial"] == 1
    assert not (tmp_path / "trials" / "0" / "variables").exists()


def test_the_weights_of_every_trial_are_kept_on_request(tmp_path: Path) -> None:
    fit(tmp_path, keep_trials=True)
    like = start_state().variables
    kept = [
        checkpoints.restore_variables(tmp_path / "trials", number, like)["params"]
        for number in checkpoints.whole_steps(tmp_path / "trials")
    ]
    start = start_weights()
    rows = RunDirectory(tmp_path).read_passes()
    for row, params in zip(rows, kept, strict=True):
        moved = np.linalg.norm(params["block_01"]["kernel"] - start["block_01"]) / 6
        assert float(row["variation/block_01"]) == pytest.approx(moved, rel=1e-5)
        if int(row["accepted"]):
            start = {name: params[name]["kernel"] for name in PARTS}


@pytest.mark.parametrize("measure", ["rms", "relative"])
def test_trials_are_judged_by_the_measure_of_the_tuner(tmp_path: Path, measure: str) -> None:
    fit(tmp_path, keep_trials=True, epochs=1, tuner=dataclasses.replace(tuner(), measure=measure))
    moved = checkpoints.restore_variables(tmp_path / "trials", 0, start_state().variables)["params"]
    row = RunDirectory(tmp_path).read_passes()[0]
    variations = []
    for name in BLOCKS:
        before = start_weights()[name]
        length = np.linalg.norm(moved[name]["kernel"] - before)
        variations.append(length / (np.sqrt(6) if measure == "rms" else np.linalg.norm(before)))
        assert float(row[f"variation/{name}"]) == pytest.approx(variations[-1], rel=1e-4)
    assert float(row["sorting_quality"]) == pytest.approx(quality_of(np.array(variations)))


# --- divergence ----------------------------------------------------------------------------------------------


def poison_above(rate: float) -> Callable[[TrainState], TrainState]:
    """Trials whose head learns faster than this diverge."""

    def spoil(state: TrainState) -> TrainState:
        if float(optimizers.get_learning_rates(state.opt_state)["head"]) <= rate:
            return state
        return state.replace(totals=state.totals | {"loss": jnp.float32(np.nan)})

    return spoil


def test_a_trial_that_diverges_is_rejected_and_all_its_rates_fall_to_a_tenth(tmp_path: Path) -> None:
    fit(tmp_path, train_with(spoil=poison_above(HEAD_RATE / 2)))
    first, second = RunDirectory(tmp_path).read_passes()[:2]
    assert (first["accepted"], first["finite"]) == ("0", "0")
    assert second["finite"] == "1"
    for name in (*BLOCKS, "head"):
        assert float(second[f"rate/{name}"]) == pytest.approx(float(first[f"rate/{name}"]) / 10, rel=1e-6)
    # From renewed rates on, the stem has half the rate of the first block.
    assert float(second["rate/stem"]) == pytest.approx(float(second["rate/block_01"]) / 2, rel=1e-6)
    assert [int(row["epoch"]) for row in RunDirectory(tmp_path).read_metrics()] == [1, 2, 3, 4]


def test_when_the_last_trial_diverges_the_run_stops_and_the_last_accepted_epoch_is_saved(
    tmp_path: Path,
) -> None:
    epochs = iter(range(10**6))

    def spoil(state: TrainState) -> TrainState:
        if int(state.step) > STEPS:  # from the second epoch on
            next(epochs)
            return state.replace(
                params={**state.params, "stem": {"kernel": state.params["stem"]["kernel"] * np.nan}}
            )
        return state

    with pytest.raises(
        Diverged, match=r"trial 5 of epoch 2 diverged .*--max_trials=5.*lower --learning_rate"
    ):
        fit(tmp_path, train_with(spoil=spoil), checkpoint_steps=0)
    folder = tmp_path / "checkpoints"
    state = saving.restore_state(folder, checkpoints.latest_step(folder), start_state())
    assert int(state.step) == STEPS
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.variables))


def test_the_last_trial_is_taken_as_it_is_and_the_log_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, tuner=tuner(max_trials=1))
    rows = RunDirectory(tmp_path).read_passes()
    assert [row["accepted"] for row in rows] == ["1"] * EPOCHS
    assert float(rows[0]["sorting_quality"]) < CONFIG.threshold
    assert "taken as it is: the last of --max_trials=1" in capsys.readouterr().err
