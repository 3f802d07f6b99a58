"""Rehearsals with steps that are a formula: what they train on, at which rates, and that nothing remains of them."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from made_up_training import PLAN, REPLICAS, STEPS, made_up_training, order, start_state

from finetune_jax.algorithms import optimizers
from finetune_jax.training.rehearsal import Chosen, Rehearsals, held_out

HELD_OUT = np.array([1, 4, 7, 11, 19])


def rehearsals(training=None, loss=lambda state: float(state.params["head"]["w"].sum()), **changes):
    settings = {
        "state": start_state(),
        "training": training or made_up_training(),
        "loss": loss,
        "plan": PLAN,
        "replicas": REPLICAS,
        "held_out": HELD_OUT,
    }
    return Rehearsals(**{**settings, **changes})


def seen(kind):
    """Training that notes the rate and the row of every step."""
    noted = []
    plain = made_up_training()

    def train(state, rows):
        rate = float(optimizers.get_learning_rates(state.opt_state)["head"])
        noted.extend((rate, row) for row in rows)
        yield from plain(state, rows)

    return noted, train


def test_the_rates_of_a_rehearsal_fall_with_a_cosine_of_their_own():
    noted, train = seen("rates")
    rehearsals(train).run({"head": 0.5}, 8)
    expected = [0.25 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    np.testing.assert_allclose([rate for rate, _ in noted], expected, rtol=1e-6)


def test_a_rehearsal_sees_the_images_of_the_run_in_their_order_but_for_those_it_is_measured_on():
    noted, train = seen("rows")
    made = rehearsals(train)
    made.run({"head": 0.5}, 2 * STEPS - 3)
    rows = np.concatenate([row for _, row in noted])
    whole = np.concatenate([order(0).ravel(), order(1).ravel()])
    np.testing.assert_array_equal(rows, whole[~np.isin(whole, HELD_OUT)][: len(rows)])
    assert (made.cost.images_trained, made.cost.images_judged) == (len(rows), len(HELD_OUT))


def test_rehearsals_leave_no_trace():
    made = rehearsals()
    before = [leaf.copy() for leaf in jax.tree.leaves(made.state)]
    first = made.run({"head": 0.5}, 6)
    made.run({"head": 0.1}, 3)
    made.losses([{"head": 0.1}] * 4, lambda losses: False)
    assert made.run({"head": 0.5}, 6) == first
    for old, new in zip(before, jax.tree.leaves(made.state), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [rehearsed.steps for rehearsed in made.log] == [6, 3, 6]


@pytest.mark.parametrize("spoilt", ["weights", "loss"])
def test_a_rehearsal_that_diverges_has_an_infinite_loss_and_stops_nothing(spoilt):
    def spoil(state):
        return state.replace(params={"head": {"w": state.params["head"]["w"] * np.float32(np.inf)}})

    made = (
        rehearsals(made_up_training(spoil=spoil))
        if spoilt == "weights"
        else rehearsals(loss=lambda state: math.nan)
    )
    found = made.run({"head": 0.5}, 3)
    assert found.loss == math.inf
    assert made.log == [found]


def test_the_losses_of_single_images_are_kept_where_there_are_any():
    found = rehearsals(loss=lambda state: np.array([1.0, 4.0], np.float32)).run({"head": 0.1}, 2)
    assert (found.loss, found.losses.tolist()) == (2.5, [1.0, 4.0])


def test_rehearsals_may_begin_where_others_ended():
    noted, train = seen("rows")
    made = rehearsals(train)
    later = made.after({"head": 0.25}, 3)
    expected = start_state()
    for rate, row in noted:
        assert rate == 0.25
        (expected, _), *_ = made_up_training()(expected.replace(opt_state=later.state.opt_state), row[None])
    np.testing.assert_allclose(later.state.params["head"]["w"], expected.params["head"]["w"], rtol=1e-6)
    noted.clear()
    later.run({"head": 0.5}, 2)
    whole = np.concatenate([order(0).ravel(), order(1).ravel()])
    left = whole[~np.isin(whole, HELD_OUT)]
    np.testing.assert_array_equal(np.concatenate([row for _, row in noted]), left[12:20])
    assert later.log is made.log
    assert made.cost.images_trained == 5 * 4


def test_losses_of_single_steps_are_differences_of_the_sums():
    totals = []

    def note(state):
        totals.append(float(state.totals["loss"]))
        return state

    rates = [{"head": rate} for rate in (0.1, 0.2, 0.4, 0.8)]
    made = rehearsals(made_up_training(spoil=note))
    losses = made.losses(rates, lambda losses: len(losses) == 3)
    np.testing.assert_allclose(losses, np.diff([0.0, *totals]) / 4, rtol=1e-5)
    assert len(losses) == 3


def test_the_tables_of_the_run_are_there_and_change_no_rate():
    shapes = []

    def train(state, rows):
        shapes.append({name: np.asarray(table) for name, table in state.tables["rate_factors"].items()})
        yield from made_up_training()(state, rows)

    tables = {"rate_factors": {"head": np.linspace(1, 0, STEPS, dtype=np.float32)}}
    rehearsals(train, plan=dataclasses.replace(PLAN, tables=lambda epoch: tables)).run({"head": 0.5}, 2)
    np.testing.assert_array_equal(shapes[0]["head"], np.ones(STEPS))


def test_held_out_images_are_a_share_that_depends_on_the_seed_alone():
    chosen = held_out(100, seed=3)
    assert len(set(chosen)) == 25
    assert (chosen == np.sort(chosen)).all()
    assert (chosen == held_out(100, seed=3)).all()
    assert (chosen != held_out(100, seed=4)).any()
    assert len(held_out(10_000, seed=0)) == 512
    assert len(held_out(2, seed=0)) == 1


def test_chosen_examples_are_those_of_the_feed():
    class Feed:
        def batches(self, order):
            yield from order * 10

    found = list(Chosen(Feed(), np.array([5, 2, 8])).batches(np.array([[0, 2], [1, 0]])))
    np.testing.assert_array_equal(found, [[50, 80], [20, 50]])
