"""Runs trained together: each is the run it would have been alone, whatever becomes of the others."""

import dataclasses
import functools
import json
import os
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from photos import write_photos
from test_resume import (
    PLAN,
    REPLICAS,
    STEPS,
    PowerCut,
    made_up_step,
    made_up_training,
    result,
    scores,
    start_state,
    write_weights,
)

import finetune_jax
from finetune_jax.algorithms import optimizers
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.batch import Batch
from finetune_jax.data.feeds import create_feed
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.errors import Diverged, Stopped, UserError
from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models.card import read_best
from finetune_jax.runs import finetune
from finetune_jax.training import lockstep, loop, step, tuning
from finetune_jax.training.state import create_state
from finetune_jax.training.step import Outcome

FACTORS = (1.0, 0.5, 3.0)


def plan_of(lane, **changes):
    """Runs that differ in their rates, and so in all their numbers."""
    rates = tuning.FixedRates((), lambda epoch: {"head": FACTORS[lane] / (1 + epoch)})
    return dataclasses.replace(PLAN, **{"epochs": 2, "tuner": rates, **changes})


class MadeUpLanes:
    """The made-up step for every run; ``before`` is called with each lane and number of a step (from 1)."""

    def __init__(self, before=lambda lane, step: None, spoil=lambda lane, state: state):
        self.before, self.spoil = before, spoil
        self.rounds = []

    def train(self, states, order):
        for row in order:
            self.rounds.append((int(next(iter(states.values())).step) + 1, set(states)))
            after = {}
            for lane, state in states.items():
                self.before(lane, int(state.step) + 1)
                after[lane] = REPLICAS.replicate(self.spoil(lane, made_up_step(state, row)))
            states = after
            yield states, 1


def fit(root, lanes, plans=None):
    members = []
    for lane, plan in enumerate(plans or map(plan_of, range(3))):
        (root / str(lane)).mkdir(parents=True, exist_ok=True)
        members.append(lockstep.Member(start_state(), plan, RunDirectory(root / str(lane))))
    return lockstep.fit(members, lanes, REPLICAS)


def alone(root, lane, plan):
    (root / str(lane)).mkdir(parents=True)
    loop.fit(start_state(), made_up_training(), plan, REPLICAS, RunDirectory(root / str(lane)))
    return result(root / str(lane))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    return [alone(root, lane, plan_of(lane)) for lane in range(3)]


def test_each_run_leaves_what_it_would_have_left_alone(tmp_path, undisturbed):
    lanes = MadeUpLanes()
    assert fit(tmp_path, lanes) == [None] * 3
    assert [result(tmp_path / str(lane)) for lane in range(3)] == undisturbed
    assert lanes.rounds == [(number, {0, 1, 2}) for number in range(1, 2 * STEPS + 1)]


def cut_at(lane, number):
    def before(*now):
        if now == (lane, number):
            raise PowerCut

    return before


@pytest.mark.parametrize("checkpoint_steps", [0, 2])
def test_interruptions_anywhere_change_nothing(tmp_path, undisturbed, checkpoint_steps):
    plans = [plan_of(lane, checkpoint_steps=checkpoint_steps) for lane in range(3)]
    for lane, number in ((1, 1), (0, 4), (2, 6), (1, 10)):
        with pytest.raises(PowerCut):
            fit(tmp_path, MadeUpLanes(cut_at(lane, number)), plans)
    assert fit(tmp_path, MadeUpLanes(), plans) == [None] * 3
    assert [result(tmp_path / str(lane)) for lane in range(3)] == undisturbed


def test_runs_that_a_kill_left_behind_are_trained_first_and_then_all_again(tmp_path, undisturbed):
    def cut(state):
        raise PowerCut

    plans = [plan_of(0), plan_of(1, evaluate=cut), plan_of(2)]
    with pytest.raises(PowerCut):
        fit(tmp_path, MadeUpLanes(), plans)  # after lane 0 has ended its first epoch
    left = [checkpoints.latest_step(tmp_path / str(lane) / "checkpoints") for lane in range(3)]
    assert left == [5, 4, 4]
    lanes = MadeUpLanes()
    fit(tmp_path, lanes)
    assert lanes.rounds[:2] == [(5, {1, 2}), (6, {0, 1, 2})]
    assert [result(tmp_path / str(lane)) for lane in range(3)] == undisturbed


@pytest.mark.parametrize(("lane", "number"), [(0, 5), (2, 3)])
def test_asked_to_stop_all_save_the_same_step_and_go_on_to_the_same_end(tmp_path, undisturbed, lane, number):
    def before(*now):
        if now == (lane, number):
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        fit(tmp_path, MadeUpLanes(before))
    assert signal.getsignal(signal.SIGTERM) == handler
    assert {checkpoints.latest_step(tmp_path / str(lane) / "checkpoints") for lane in range(3)} == {number}
    fit(tmp_path, MadeUpLanes())
    assert [result(tmp_path / str(lane)) for lane in range(3)] == undisturbed


@pytest.mark.parametrize("number", [7, 10])
def test_a_run_that_diverges_stops_no_other(tmp_path, undisturbed, number):
    def spoil(lane, state):
        if lane == 1 and int(state.step) >= number:
            return state.replace(params={"head": {"w": np.full(3, np.nan, np.float32)}})
        return state

    endings = fit(tmp_path, MadeUpLanes(spoil=spoil))
    assert [type(ending) for ending in endings] == [type(None), Diverged, type(None)]
    for lane in (0, 2):
        assert result(tmp_path / str(lane)) == undisturbed[lane]
    left = checkpoints.latest_step(tmp_path / "1" / "checkpoints")
    assert left == {7: 6, 10: 8}[number]
    # Started again, only that run is trained again.
    lanes = MadeUpLanes(spoil=spoil)
    assert [type(ending) for ending in fit(tmp_path, lanes)] == [type(None), Diverged, type(None)]
    assert {frozenset(active) for _, active in lanes.rounds} == {frozenset({1})}
    for lane in (0, 2):
        assert result(tmp_path / str(lane)) == undisturbed[lane]


def test_a_run_that_stops_early_leaves_the_others_going(tmp_path, undisturbed):
    longer = [plan_of(lane, epochs=3) for lane in range(2)]
    impatient = dataclasses.replace(longer[1], patience=1, evaluate=scores(0.5, 0.2, 0.9))
    lanes = MadeUpLanes()
    fit(tmp_path, lanes, [longer[0], impatient, plan_of(2)])
    assert [len(RunDirectory(tmp_path / str(lane)).read_metrics()) for lane in range(3)] == [3, 2, 2]
    assert lanes.rounds[2 * STEPS - 1 :: STEPS] == [(2 * STEPS, {0, 1, 2}), (3 * STEPS, {0})]
    assert result(tmp_path / "2") == undisturbed[2]


@dataclasses.dataclass(frozen=True)
class SecondTrialCounts(tuning.FixedRates):
    """Rejects the first trial of every epoch."""

    rejects = True

    def initial(self):
        return {"trial": np.zeros((), np.int32)}

    def judge(self, state, outcome):
        trial = int(state["trial"]) + 1
        verdict = tuning.Verdict(trial == 2, trial, 0.5, 0.9, {}, "")
        return {"trial": np.asarray(trial % 2, np.int32)}, verdict


def test_a_run_that_rejects_passes_ends_as_alone_while_the_others_wait(tmp_path, undisturbed):
    picky = plan_of(1)
    picky = dataclasses.replace(picky, tuner=SecondTrialCounts((), picky.tuner.schedule))
    members_alone = tmp_path / "alone" / "1"
    members_alone.mkdir(parents=True)

    def train(state, order):
        for after, taken in made_up_training()(state, order):
            yield REPLICAS.replicate(after), taken

    loop.fit(start_state(), train, picky, REPLICAS, RunDirectory(members_alone))
    lanes = MadeUpLanes()
    fit(tmp_path, lanes, [plan_of(0), picky, plan_of(2)])
    assert result(tmp_path / "1") == result(members_alone)
    assert [result(tmp_path / str(lane)) for lane in (0, 2)] == [undisturbed[0], undisturbed[2]]
    assert [active for _, active in lanes.rounds[::STEPS]] == [{0, 1, 2}, {1}] * 2


# --- the compiled step ----------------------------------------------------------------------------------

HYPERPARAMETERS = ((0.1, 0.9, 0.01), (0.03, 0.0, 0.0), (0.2, 0.5, 0.1), (0.05, 0.99, 0.0))
"""Learning rate, momentum, weight decay of each lane."""


class Images:
    images = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 3), dtype=np.uint8)
    labels = np.random.default_rng(1).integers(0, 2, 24).astype(np.int32)


ORDER = np.random.default_rng(2).permutation(24).reshape(3, 8)


def dense(params, frozen, batch_stats, batch, key):
    """A layer that keeps the mean of its outputs, a layer that does not, noise, squared error."""
    weights = {**params, **frozen}
    noise = 0.1 * jax.random.normal(key, (48,))
    inputs = batch.images.reshape(len(batch.labels), -1) / 255.0 + noise
    hidden = jnp.tanh(inputs @ weights["stem"]["w"])
    errors = (hidden - batch_stats["stem"]["mean"]) @ weights["head"]["w"] - batch.labels
    totals = {"loss": (errors**2).sum(), "examples": jnp.float32(len(errors))}
    mean = {"mean": 0.9 * batch_stats["stem"]["mean"] + 0.1 * hidden.mean(0)}
    return (errors**2).mean(), Outcome({"stem": mean} if "stem" in params else {}, totals)


def dense_state(trained, lane, hidden=5):
    rng = np.random.default_rng(3)
    variables = {
        "params": {
            "stem": {"w": rng.normal(0, 0.2, (48, hidden)).astype(np.float32)},
            "head": {"w": rng.normal(0, 0.2, hidden).astype(np.float32)},
        },
        "batch_stats": {"stem": {"mean": np.full(hidden, 0.1, np.float32)}, "head": {}},
    }
    rate, momentum, decay = HYPERPARAMETERS[lane]
    optimizer = optimizers.per_block_sgd(
        dict.fromkeys(trained), dict.fromkeys(trained, rate), momentum, weight_decay=decay
    )
    totals = ("loss", "examples")
    state = create_state(variables, trained, optimizer, key=jax.random.key(4), totals=totals)
    return jax.device_get(state), optimizer


def dense_lanes(trained, replicas, feed, hidden=5):
    """Lanes with the optimiser of the first run only."""
    state, optimizer = dense_state(trained, 0, hidden)
    run = functools.partial(step.train_step, objective=dense, optimizer=optimizer, axis_name=AXIS)
    batch = Batch(Images.images[:8], Images.labels[:8], np.arange(8, dtype=np.int32))
    changing = lockstep.changing_statistics(dense, state, batch)
    assert changing == (("stem",) if "stem" in trained else ())
    return lockstep.Lanes(len(HYPERPARAMETERS), run, changing, feed, replicas)


def last(dispatches):
    """The states after the last dispatch."""
    return [states for states, _ in dispatches][-1]


def by_hand(trained, lane):
    """The same training with constants, and Optax's optimiser without a wrapper."""
    state, _ = dense_state(trained, lane)
    rate, momentum, decay = HYPERPARAMETERS[lane]
    optimizer = optax.chain(
        optax.add_decayed_weights(decay), optax.sgd(rate, momentum=momentum or None, nesterov=True)
    )
    params, batch_stats, slots = state.params, state.batch_stats, optimizer.init(state.params)
    losses = []
    for number, row in enumerate(ORDER):
        batch = Batch(Images.images[row], Images.labels[row], np.arange(8))
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), number)
        gradients, outcome = jax.grad(dense, has_aux=True)(params, state.frozen, batch_stats, batch, key)
        updates, slots = optimizer.update(gradients, slots, params)
        params = optax.apply_updates(params, updates)
        batch_stats = {**batch_stats, **outcome.batch_stats}
        losses.append(float(outcome.totals["loss"]))
    return params, batch_stats, sum(losses)


@pytest.mark.parametrize("trained", [("stem", "head"), ("head",)])
@pytest.mark.parametrize(
    ("resident", "steps_per_dispatch", "devices"), [(True, 1, 1), (True, 2, 2), (False, 1, 1)]
)
def test_every_lane_takes_the_steps_of_its_own_hyperparameters(
    trained, resident, steps_per_dispatch, devices
):
    replicas = Replicas(tuple(jax.devices()[:devices]))
    feed = create_feed(Images, replicas, resident=resident, steps_per_dispatch=steps_per_dispatch)
    lanes = dense_lanes(trained, replicas, feed)
    states = {lane: replicas.replicate(dense_state(trained, lane)[0]) for lane in range(4)}
    for lane, state in last(lanes.train(states, ORDER)).items():
        params, batch_stats, loss = by_hand(trained, lane)
        for ours, theirs in zip(
            jax.tree.leaves((state.params, state.batch_stats)),
            jax.tree.leaves((params, batch_stats)),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        assert float(state.totals["loss"]) == pytest.approx(loss, rel=1e-5)
        assert int(state.step) == 3


def test_idle_lanes_and_states_used_again_compile_and_spoil_nothing(compilations):
    trained = ("head",)
    feed = create_feed(Images, REPLICAS, resident=True, steps_per_dispatch=1)
    lanes = dense_lanes(trained, REPLICAS, feed)
    states = {lane: REPLICAS.replicate(dense_state(trained, lane)[0]) for lane in range(4)}
    before = compilations.count
    states = last(lanes.train(states, ORDER))
    compiled = compilations.count
    assert before < compiled <= before + 3  # joining, stepping, parting
    some = last(lanes.train({2: states[2]}, ORDER))
    # The frozen parts that all states share were not used up by those steps.
    everything = last(lanes.train(states, ORDER))
    assert compilations.count == compiled
    for ours, theirs in zip(jax.tree.leaves(some[2]), jax.tree.leaves(everything[2]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_no_run_trains_is_computed_once():
    class Feed:
        def compile_training(self, step):
            self.step = step

    def flops(trained):
        feed = Feed()
        lanes = dense_lanes(trained, REPLICAS, feed, hidden=64)
        state = dense_state(trained, 0, hidden=64)[0]
        own = {"params", "opt_state", "totals"} | ({"batch_stats"} if "stem" in trained else set())
        stack = functools.partial(jax.tree.map, lambda leaf: np.stack([leaf] * 4))
        stacked = state.replace(**{name: stack(getattr(state, name)) for name in own})
        batch = Batch(Images.images[None, :8], Images.labels[None, :8], np.arange(8)[None])
        of_one = functools.partial(step.train_step, objective=dense, axis_name=AXIS)
        single = functools.partial(of_one, optimizer=dense_state(trained, 0, hidden=64)[1])
        del lanes

        def count(function, state):
            mapped = jax.vmap(function, in_axes=(None, 0), axis_name=AXIS)
            return jax.jit(mapped).lower(state, batch).compile().cost_analysis()["flops"]

        return count(feed.step, stacked) / count(single, state)

    assert flops(("stem", "head")) > 3.5
    assert flops(("head",)) < 1.5


# --- whole runs -----------------------------------------------------------------------------------------

SETTINGS = (
    {"learning_rate": 0.02, "momentum": 0.9, "weight_decay": 5e-4},
    {"learning_rate": 1e6, "momentum": 0.9},
    {"learning_rate": 0.05, "momentum": 0.0, "weight_decay": 0.0, "head_learning_rate": 0.1},
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("together")
    write_weights(root / "weights.npz")
    return FinetuneConfig(
        dataset=f"folder:{write_photos(root / 'photos')}",
        cache_dir=str(root / "cache"),
        pretrained=str(root / "weights.npz"),
        network="resnet26_policy",
        width=0.125,
        image_size=8,
        batch_size=12,
        epochs=2,
    )


def group(base, root, settings=SETTINGS):
    return [
        dataclasses.replace(base, workdir=str(root / f"run{number}"), **values)
        for number, values in enumerate(settings)
    ]


@pytest.fixture(scope="module")
def compile_times():
    """``time.time()`` of every XLA compilation of this module's fixtures."""
    times = []

    def note(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            times.append(time.time())

    jax.monitoring.register_event_duration_secs_listener(note)
    yield times
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture(scope="module")
def in_turn(base, compile_times, tmp_path_factory):
    configs = group(base, tmp_path_factory.mktemp("in_turn"))
    return configs, finetune.run_together(configs, REPLICAS, vectorize=False), list(compile_times)


@pytest.fixture(scope="module")
def in_lockstep(base, tmp_path_factory):
    configs = group(base, tmp_path_factory.mktemp("in_lockstep"))
    return configs, finetune.run_together(configs, REPLICAS, vectorize=True)


def best_of(config):
    return jax.tree.leaves(read_best(Path(config.workdir))[1])


def test_trained_in_turn_a_run_is_bit_for_bit_the_one_alone(base, in_turn, tmp_path):
    configs, (_, _, together_), _ = in_turn
    config = dataclasses.replace(configs[2], workdir=str(tmp_path / "run"))
    summary = finetune.run(config, REPLICAS)
    assert together_["test_loss"] == summary["test_loss"]
    for ours, theirs in zip(best_of(configs[2]), best_of(config), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_trained_in_turn_only_the_first_run_compiles(in_turn):
    configs, _, times = in_turn
    first_ended = (Path(configs[0].workdir) / "summary.json").stat().st_mtime
    assert times
    assert max(times) < first_ended


def test_trained_in_lockstep_a_run_equals_the_one_alone_to_rounding(in_turn, in_lockstep):
    configs_alone, alone_, _ = in_turn
    configs, summaries = in_lockstep
    for lane in (0, 2):
        assert summaries[lane]["best_epoch"] == alone_[lane]["best_epoch"]
        assert summaries[lane]["test_loss"] == pytest.approx(alone_[lane]["test_loss"], rel=1e-3)
        for ours, theirs in zip(best_of(configs[lane]), best_of(configs_alone[lane]), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    assert not np.allclose(best_of(configs[0])[-1], best_of(configs[2])[-1], rtol=1e-2)


@pytest.mark.parametrize("way", ["in_turn", "in_lockstep"])
def test_each_run_directory_is_complete_and_the_run_that_diverged_is_told(way, request):
    configs, results, *_ = request.getfixturevalue(way)
    assert isinstance(results[1], Diverged)
    assert not (Path(configs[1].workdir) / "summary.json").exists()
    for lane in (0, 2):
        path = Path(configs[lane].workdir)
        names = {entry.name for entry in path.iterdir()}
        assert {"flags.json", "metrics.csv", "checkpoints", "report.html", "training.png"} <= names
        assert json.loads((path / "summary.json").read_text()) == results[lane]
        assert len(RunDirectory(path).read_metrics()) == 2
        flags = json.loads((path / "flags.json").read_text())
        assert flags["momentum"] == configs[lane].momentum
    predictor = finetune_jax.load(configs[0].workdir)
    assert predictor(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 3)


@pytest.mark.parametrize("way", ["in_turn", "in_lockstep"])
def test_runs_that_have_ended_are_not_trained_again(way, request, compilations):
    configs, results, *_ = request.getfixturevalue(way)
    ended = [configs[0], configs[2]]
    again = finetune.run_together(ended, REPLICAS, vectorize=way == "in_lockstep")
    assert again == [results[0], results[2]]
    assert compilations.count == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 6}, "--batch_size=6 and --batch_size=12 cannot be trained together"),
        ({"seed": 1}, "--seed=1 and --seed=0 cannot"),
        ({"momentum": 1.0}, "--momentum=1.0 is out of range"),
        ({"workdir": ""}, "--workdir is empty"),
    ],
)
def test_runs_that_do_not_go_together_are_named_before_anything_is_made(base, tmp_path, changes, named):
    first, *_, last = group(base, tmp_path)
    with pytest.raises(UserError, match=named):
        finetune.run_together([first, dataclasses.replace(last, **changes)], REPLICAS)
    with pytest.raises(UserError, match="is given for several runs"):
        finetune.run_together([first, first], REPLICAS)
    assert not list(tmp_path.iterdir())
