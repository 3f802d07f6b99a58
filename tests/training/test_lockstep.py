"""Runs in lockstep: each leaves what it would have left alone, whatever becomes of the others."""

import dataclasses
import os
import signal

import numpy as np
import pytest
from made_up_training import (
    PLAN,
    REPLICAS,
    STEPS,
    PowerCut,
    made_up_step,
    made_up_training,
    result,
    scores,
    start_state,
)

from finetune_jax.errors import Diverged, Stopped
from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.training import lockstep, loop, tuning

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

    measure = "mean"
    can_reject = True

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
