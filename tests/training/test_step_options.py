"""What a step can do beside its optimiser: the same on any number of devices, and exact against its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import random_variables

from finetune_jax import models
from finetune_jax.algorithms import augmentation, clipping, erasing, losses, optimizers
from finetune_jax.data.batch import Batch
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.models.normalization import normalizer
from finetune_jax.training import objectives, step
from finetune_jax.training.state import create_state

BATCH = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (BATCH, 8, 8, 3), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 4, BATCH).astype(np.int32)
WHOLE = Batch(IMAGES, LABELS, np.arange(BATCH, dtype=np.int32))
NORMALIZE = normalizer((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
NETWORK = models.create("resnet26_policy", num_classes=4, width=0.125)
PARTS = NETWORK.part_names
ZERO_TOTALS = ("loss", "correct", "examples")


@functools.cache
def variables():
    return random_variables(NETWORK)


def leaves_close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def training(
    rule=None,
    *,
    axis_name=None,
    augment=augmentation.flip,
    totals=ZERO_TOTALS,
    averaged=False,
    loss=None,
    **options,
):
    """State and step of a network whose batch norm keeps its statistics, so that examples do not see each other."""
    rates = dict.fromkeys(PARTS, 0.05)
    optimizer = optimizers.per_block(rates, rates, dict.fromkeys(PARTS, rule or optimizers.sgd()))
    of_objective = {name: options.pop(name) for name in ("mix", "erase") if name in options}
    objective = objectives.objective(
        objectives.forward(NETWORK, ()),
        loss or objectives.cross_entropy(),
        normalize=NORMALIZE,
        augment=augment,
        **of_objective,
    )
    state = create_state(
        variables(), PARTS, optimizer, key=jax.random.key(1), totals=totals, averaged=averaged
    )
    run = functools.partial(
        step.train_step, objective=objective, optimizer=optimizer, axis_name=axis_name, **options
    )
    return state, run


def everything(axis_name):
    mix = objectives.Mixing(4, mixup=0.4, cutmix=1.0, axis_name=axis_name)
    return training(
        optimizers.create("momo"),
        axis_name=axis_name,
        augment=augmentation.then(augmentation.create("trivial_augment", 8), augmentation.dihedral),
        averaged=True,
        totals=(*ZERO_TOTALS, *(f"gradient_norm/{name}" for name in PARTS)),
        loss=objectives.soft_classification(
            losses.focal, label_smoothing=0.1, class_weights=np.array([1, 2, 1, 0.5])
        ),
        mix=mix,
        erase=functools.partial(erasing.erase, probability=0.5),
        pieces=2,
        clip=lambda gradients, params: clipping.by_global_norm(gradients, 0.5),
        gives_loss=True,
    )


TABLES = {
    "rate_factors": {name: np.array([0.5, 1.0, 0.25], np.float32) for name in PARTS},
    "mix_probability": np.float32(0.9),
    "ema_decay": np.float32(0.9),
}


@pytest.mark.slow
def test_one_device_and_eight_take_the_same_steps_with_everything_switched_on():
    ends = []
    for devices in (1, 8):
        replicas = Replicas(tuple(jax.devices()[:devices]))
        state, run = everything(AXIS)
        state = replicas.replicate(jax.device_get(state.replace(tables=TABLES)))
        mapped = replicas.map(run, (None, 0), donate=(0,))
        batch = replicas.split((IMAGES, LABELS, np.arange(BATCH, dtype=np.int32)))
        for _ in range(3):
            state = mapped(state, Batch(*batch))
        ends.append(jax.device_get(state))
    leaves_close(ends[0].params, ends[1].params, rtol=2e-4, atol=2e-5)
    leaves_close(ends[0].averages, ends[1].averages, rtol=2e-4, atol=2e-5)
    leaves_close(ends[0].totals, ends[1].totals, rtol=2e-3, atol=1e-4)
    moved = [
        np.abs(a - b).max()
        for a, b in zip(*map(jax.tree.leaves, (ends[0].params, variables()["params"])), strict=True)
    ]
    assert max(moved) > 1e-3


@pytest.mark.parametrize("pieces", [2, 4])
def test_a_batch_in_pieces_gives_the_step_of_the_whole_batch(pieces):
    state, whole = training()
    _, in_pieces = training(pieces=pieces)
    expected, actual = jax.jit(whole)(state, WHOLE), jax.jit(in_pieces)(state, WHOLE)
    leaves_close(actual.params, expected.params, rtol=1e-4, atol=1e-6)
    leaves_close(actual.totals, expected.totals, rtol=1e-5)


def test_tables_change_the_rates_of_a_step_and_not_those_of_the_state():
    state, run = training()
    run = jax.jit(run)
    full = run(state, WHOLE)
    tabled = state.replace(tables={"rate_factors": {name: jnp.array([0.5, 0.0]) for name in PARTS}})
    half = run(tabled, WHOLE)
    start = state.params
    for whole, part, at in zip(*map(jax.tree.leaves, (full.params, half.params, start)), strict=True):
        np.testing.assert_allclose(part - at, (whole - at) / 2, rtol=1e-4, atol=1e-7)
    still = run(half, WHOLE)
    leaves_close(still.params, half.params, rtol=0, atol=0)
    assert {float(rate) for rate in optimizers.get_learning_rates(still.opt_state).values()} == {
        np.float32(0.05)
    }
    again = run(still, WHOLE)  # step 2 is the first of the next epoch
    assert not np.allclose(
        again.params["head"]["classifier"]["kernel"], still.params["head"]["classifier"]["kernel"]
    )


def test_the_average_of_the_weights_follows_them_with_a_decay_that_warms_up():
    state, run = training(averaged=True)
    run = jax.jit(run)
    state = state.replace(tables={"ema_decay": jnp.float32(0.15)})
    expected = np.asarray(state.params["head"]["classifier"]["kernel"], np.float64)
    for taken in range(3):
        state = run(state, WHOLE)
        decay = min(0.15, (1 + taken) / (10 + taken))
        expected = decay * expected + (1 - decay) * np.asarray(state.params["head"]["classifier"]["kernel"])
    np.testing.assert_allclose(state.averages["params"]["head"]["classifier"]["kernel"], expected, rtol=1e-5)
    variables_ = state.averaged_variables
    assert set(variables_["params"]) == set(PARTS)
    assert not np.allclose(
        variables_["params"]["head"]["classifier"]["kernel"],
        state.params["head"]["classifier"]["kernel"],
        atol=1e-8,
    )


def test_clipping_sees_the_gradient_of_the_whole_batch():
    """With plain gradient descent the step is the rate times the clipped gradient."""
    limit = 0.01
    rule = optimizers.sgd(0.0, weight_decay=0.0)
    state, run = training(rule, clip=lambda gradients, params: clipping.by_global_norm(gradients, limit))
    after = jax.jit(run)(state, WHOLE)
    steps = jax.tree.map(jnp.subtract, after.params, state.params)
    np.testing.assert_allclose(clipping.global_norm(steps), 0.05 * limit, rtol=1e-3)


def test_norms_of_gradients_are_summed_as_means_over_examples():
    rule = optimizers.sgd(0.0, weight_decay=0.0)
    names = tuple(f"gradient_norm/{name}" for name in PARTS)
    state, run = training(rule, totals=(*ZERO_TOTALS, *names))
    after = jax.jit(run)(state, WHOLE)
    norms = clipping.block_norms(jax.tree.map(lambda a, b: (a - b) / 0.05, after.params, state.params))
    for name in PARTS:
        np.testing.assert_allclose(after.totals[f"gradient_norm/{name}"] / BATCH, norms[name], rtol=2e-3)


def test_mixed_batches_are_what_mixing_makes_of_prepared_ones():
    mix = objectives.Mixing(4, mixup=1.0, cutmix=0.0)
    plain = objectives.objective(
        objectives.forward(NETWORK, ()),
        objectives.cross_entropy(),
        normalize=NORMALIZE,
        augment=augmentation.flip,
    )
    mixed = objectives.objective(
        objectives.forward(NETWORK, ()),
        objectives.soft_classification(losses.soft_cross_entropy),
        normalize=NORMALIZE,
        augment=augmentation.flip,
        mix=mix,
    )
    key = jax.random.key(4)
    before, after = plain.prepare(WHOLE, key), mixed.prepare(WHOLE, key)
    share = after.labels[np.arange(BATCH), LABELS]
    same = np.flatnonzero(LABELS[::-1] != LABELS)
    share = float(share[same[0]])
    assert 0 < share < 1
    np.testing.assert_allclose(
        after.images, share * before.images + (1 - share) * before.images[::-1], atol=1e-4
    )
    unmixed = mixed.prepare(WHOLE._replace(mix_probability=jnp.float32(0)), key)
    np.testing.assert_array_equal(unmixed.images, before.images)
    np.testing.assert_array_equal(unmixed.labels, np.eye(4)[LABELS])


def test_a_soft_loss_of_hard_labels_is_the_loss_of_hard_labels():
    rng = np.random.default_rng(3)
    logits = jnp.asarray(rng.normal(size=(BATCH, 4)), jnp.float32)
    weights = np.array([1.0, 2.0, 0.5, 1.0], np.float32)
    hard = objectives.cross_entropy(label_smoothing=0.2, class_weights=weights)
    soft = objectives.soft_classification(
        losses.soft_cross_entropy, label_smoothing=0.2, class_weights=weights
    )
    for one, other in zip(
        jax.tree.leaves(hard(logits, {}, LABELS)), jax.tree.leaves(soft(logits, {}, LABELS)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_state_without_averages_and_tables_has_the_leaves_it_always_had():
    state, run = training()
    assert state.averages is None
    after = jax.jit(run)(state, WHOLE)
    assert after.averages is None
    assert after.tables is None
    fields = (
        state.step,
        state.key,
        state.params,
        state.frozen,
        state.batch_stats,
        state.opt_state,
        state.totals,
    )
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(fields))
