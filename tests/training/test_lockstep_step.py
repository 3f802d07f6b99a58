"""The compiled step of runs in lockstep: each takes the steps of its own hyperparameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_up_training import (
    REPLICAS,
)

from finetune_jax.algorithms import optimizers
from finetune_jax.data.batch import Batch
from finetune_jax.data.feeds import create_feed
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.training import lockstep, step
from finetune_jax.training.state import create_state
from finetune_jax.training.step import Outcome

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
