"""The train step: equal on any mapping, exact about what is frozen, compiled once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from weights import random_variables

from finetune_jax import models
from finetune_jax.algorithms import augmentation, losses, optimizers
from finetune_jax.data.batch import Batch
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.models.normalization import normalizer
from finetune_jax.training import objectives, step
from finetune_jax.training.state import create_state

BATCH = 16
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (BATCH, 8, 8, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 4, BATCH).astype(np.int32)
NORMALIZE = normalizer((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def network_of(norm_axis=None):
    return models.create("resnet26_policy", num_classes=4, width=0.125, norm_axis=norm_axis)


@functools.cache
def variables():
    return random_variables(network_of())


def training(network, trained=None, axis_name=AXIS, rate=0.01, **options):
    """State and per-replica step."""
    trained = trained or network.part_names
    optimizer = optimizers.per_block_sgd(dict.fromkeys(trained), dict.fromkeys(trained, rate))
    objective = objectives.objective(
        objectives.forward(network, options.pop("batch_norm_parts", trained)),
        objectives.cross_entropy(**options),
        normalize=NORMALIZE,
        augment=augmentation.pad_crop_flip,
    )
    state = create_state(variables(), trained, optimizer, key=jax.random.key(1))
    run = functools.partial(step.train_step, objective=objective, optimizer=optimizer, axis_name=axis_name)
    return state, run


def shares(count):
    """The images split over ``count`` replicas, which are the leading axis."""
    return Batch(
        *(
            np.reshape(x, (count, BATCH // count, *x.shape[1:]))
            for x in (IMAGES, LABELS, np.arange(BATCH, dtype=np.int32))
        )
    )


WHOLE = Batch(*(x[0] for x in shares(1)[:3]))


def steps_on(replicas, network, number=3):
    state, run = training(network)
    mapped = replicas.map(run, (None, 0), donate=(0,))
    state = replicas.replicate(state)
    batch = replicas.split((IMAGES, LABELS, np.arange(BATCH, dtype=np.int32)))
    for _ in range(number):
        state = mapped(state, Batch(*batch))
    return jax.device_get(state)


def leaves_close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


@pytest.fixture(scope="module")
def eight():
    """Three steps on eight devices with synchronised batch norm."""
    return steps_on(Replicas(tuple(jax.devices()[:8])), network_of(AXIS))


def test_eight_devices_agree_with_one(eight):
    one = steps_on(Replicas((jax.devices()[0],)), network_of(AXIS))
    for ours, theirs in ((eight.params, one.params), (eight.batch_stats, one.batch_stats)):
        leaves_close(ours, theirs, rtol=1e-5, atol=1e-5)
    leaves_close(eight.totals, one.totals, rtol=1e-5)
    assert eight.totals["examples"] == 3 * BATCH


def test_the_same_function_runs_under_shard_map(eight):
    state, run = training(network_of(AXIS))
    mesh = Mesh(np.array(jax.devices()[:8]), (AXIS,))

    def local(state, batch):
        return run(state, jax.tree.map(lambda x: x[0], batch))

    mapped = jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
    )
    for _ in range(3):
        state = mapped(state, shares(8))
    leaves_close(jax.device_get(state), eight, rtol=1e-6, atol=1e-7)


def test_the_same_function_runs_under_plain_jit():
    state, run = training(network_of(), axis_name=None)
    plain = jax.jit(run)
    for _ in range(3):
        state = plain(state, WHOLE)
    one = steps_on(Replicas((jax.devices()[0],)), network_of())
    leaves_close(jax.device_get(state), one, rtol=1e-6, atol=1e-7)


def test_per_replica_batch_norm_differs_from_the_synchronised_one(eight):
    own = steps_on(Replicas(tuple(jax.devices()[:8])), network_of())
    ours, theirs = (state.params["block_01"]["conv1"]["kernel"] for state in (own, eight))
    assert np.abs(ours - theirs).max() > 1e-5


def test_a_step_is_gradient_decay_and_momentum_written_by_hand():
    network = network_of()
    state, run = training(network, axis_name=None, rate=0.1, label_smoothing=0.1)
    after = jax.jit(run)(state, WHOLE)

    def loss(params):
        keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(1), 0), slot) for slot in range(BATCH)]
        images = jnp.stack(
            [
                augmentation.pad_crop_flip(key, jnp.asarray(image, jnp.float32))
                for key, image in zip(keys, IMAGES, strict=True)
            ]
        )
        logits, _ = network.apply({**variables(), "params": params}, NORMALIZE(images), train=True)
        target = 0.9 * jax.nn.one_hot(LABELS, 4) + 0.1 / 4
        return -(target * jax.nn.log_softmax(logits)).sum(1).mean()

    gradients = jax.jit(jax.grad(loss))(state.params)
    for before, gradient, now in zip(
        *(jax.tree.leaves(tree) for tree in (state.params, gradients, after.params)), strict=True
    ):
        decayed = np.asarray(gradient) + 5e-4 * np.asarray(before)
        np.testing.assert_allclose(now, np.asarray(before) - 0.1 * 1.9 * decayed, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("batch_norm_parts", [("block_03", "head"), ("stem", "block_03", "head")])
def test_frozen_parts_stay_bit_identical_and_hold_no_optimiser_slot(batch_norm_parts):
    trained = ("block_03", "head")
    state, run = training(network_of(), trained, None, rate=0.5, batch_norm_parts=batch_norm_parts)
    after = jax.jit(run)(state, WHOLE)
    assert set(state.params) == set(trained)
    assert set(state.frozen) == {"stem", "block_01", "block_02"}
    for name, tree in after.frozen.items():
        leaves_close(tree, variables()["params"][name], rtol=0, atol=0)
    for name in ("stem", "block_01", "block_02"):
        same = all(
            np.array_equal(a, b)
            for a, b in zip(
                jax.tree.leaves(after.batch_stats[name]),
                jax.tree.leaves(variables()["batch_stats"][name]),
                strict=True,
            )
        )
        assert same == (name not in batch_norm_parts)
    momentum = [leaf for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim > 0]
    assert sum(leaf.size for leaf in momentum) == sum(leaf.size for leaf in jax.tree.leaves(after.params))
    for name in trained:
        assert not np.array_equal(
            jax.tree.leaves(after.params[name])[0], jax.tree.leaves(variables()["params"][name])[0]
        )


def test_no_gradient_is_computed_below_the_lowest_trained_part():
    state, run = training(network_of(), ("head",), None)
    program = jax.jit(run).lower(state, WHOLE).compile()
    whole_state, whole_run = training(network_of(), None, None)
    whole = jax.jit(whole_run).lower(whole_state, WHOLE).compile()
    # Forward alone is a third of forward and backward.
    assert program.cost_analysis()["flops"] < 0.45 * whole.cost_analysis()["flops"]


def test_class_weights_scale_the_loss_of_their_class():
    weights = jnp.asarray([0.0, 2.0, 0.5, 1.0])
    network = network_of()
    state, run = training(network, axis_name=None, rate=1e-9, class_weights=weights)
    after = jax.jit(run)(state, WHOLE)
    key = jax.random.fold_in(jax.random.key(1), 0)
    images = jnp.stack(
        [
            augmentation.pad_crop_flip(jax.random.fold_in(key, slot), jnp.asarray(image, jnp.float32))
            for slot, image in enumerate(IMAGES)
        ]
    )
    logits, _ = jax.jit(functools.partial(network.apply, train=True))(variables(), NORMALIZE(images))
    example_losses = np.asarray(losses.cross_entropy(logits, LABELS)) * np.asarray(weights)[LABELS]
    np.testing.assert_allclose(after.totals["loss"], example_losses.sum(), rtol=1e-4)


def test_new_learning_rates_do_not_compile_the_step_again(compilations):
    replicas = Replicas(tuple(jax.devices()[:2]))
    state, run = training(network_of())
    mapped = replicas.map(run, (None, 0), donate=(0,))
    state = replicas.replicate(state)
    batch = Batch(*replicas.split((IMAGES, LABELS, np.arange(BATCH, dtype=np.int32))))
    before = compilations.count
    state = mapped(state, batch)
    assert compilations.count == before + 1
    for rate in (0.1, 0.01):
        rates = dict.fromkeys(state.params, rate)
        state = state.replace(opt_state=optimizers.set_learning_rates(state.opt_state, rates))
        state = mapped(state, batch)
    assert compilations.count == before + 1


def test_cross_entropy_is_minus_the_log_of_the_softmax():
    logits = RNG.normal(size=(5, 3))
    labels = np.array([0, 2, 1, 1, 0])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(probabilities[np.arange(5), labels])
    np.testing.assert_allclose(losses.cross_entropy(jnp.asarray(logits), labels), expected, rtol=1e-5)
    smooth = -0.7 * np.log(probabilities[np.arange(5), labels]) - 0.3 * np.log(probabilities).mean(1)
    np.testing.assert_allclose(
        losses.cross_entropy(jnp.asarray(logits), labels, label_smoothing=0.3), smooth, rtol=1e-5
    )


def test_normalisation_is_that_of_images_scaled_to_one():
    expected = (IMAGES / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]
    np.testing.assert_allclose(NORMALIZE(IMAGES), expected, rtol=1e-5, atol=1e-5)
