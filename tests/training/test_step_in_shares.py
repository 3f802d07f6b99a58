"""Parameters in shares over the devices: the steps of whole parameters, and a share of the memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from finetune_jax import models
from finetune_jax.algorithms import augmentation, clipping, optimizers
from finetune_jax.config.choices import ELEMENTWISE
from finetune_jax.data.batch import Batch
from finetune_jax.devices import shares
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.models import registry
from finetune_jax.models.normalization import normalizer
from finetune_jax.training import objectives, step
from finetune_jax.training.divergence import measure_pass, measure_pass_in_shares
from finetune_jax.training.placement import Placement
from finetune_jax.training.plan import Start
from finetune_jax.training.state import create_state

BATCH = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (BATCH, 8, 8, 3), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 4, BATCH).astype(np.int32)
NORMALIZE = normalizer((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
NETWORK = models.create("resnet26_policy", num_classes=4, width=0.125)
PARTS = NETWORK.part_names
TRAINED = tuple(name for name in PARTS if name != "block_01")
TOTALS = ("loss", "correct", "examples", *(f"gradient_norm/{name}" for name in TRAINED))
TABLES = {"ema_decay": np.float32(0.9)}


@functools.cache
def variables():
    return jax.device_get(NETWORK.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))


def steps(rule, in_shares, count=3):
    """State before and after some steps on eight devices with batch norm, clipping, averages and two pieces."""
    placement = Placement(Replicas(tuple(jax.devices()[:8])), in_shares)
    network = registry.with_settings(NETWORK, parameter_axis=AXIS) if in_shares else NETWORK
    rates = dict.fromkeys(TRAINED, 0.05)
    optimizer = optimizers.per_block(rates, rates, dict.fromkeys(TRAINED, rule))
    run = functools.partial(
        step.train_step,
        objective=objectives.objective(
            objectives.forward(network, TRAINED),
            objectives.cross_entropy(),
            normalize=NORMALIZE,
            augment=augmentation.flip,
        ),
        optimizer=optimizer,
        axis_name=AXIS,
        pieces=2,
        clip=lambda gradients, params: clipping.by_global_norm(gradients, 0.5, AXIS if in_shares else None),
        in_shares=in_shares,
    )
    state = create_state(variables(), TRAINED, optimizer, key=jax.random.key(1), totals=TOTALS, averaged=True)
    before = placement.state(jax.device_get(state.replace(tables=TABLES)))
    axes = placement.axes(before)
    mapped = placement.replicas.map(run, (axes, 0), axes)
    batch = Batch(*placement.replicas.split((IMAGES, LABELS, np.arange(BATCH, dtype=np.int32))))
    after = before
    for _ in range(count):
        after = mapped(after, batch)
    return placement, before, after


def bytes_on_each_device(state):
    """Of parameters, their averages and what the optimiser keeps of them."""
    used = {}
    for leaf in jax.tree.leaves((state.params, state.frozen, state.opt_state, state.averages["params"])):
        for shard in leaf.addressable_shards:
            used[shard.device] = used.get(shard.device, 0) + shard.data.nbytes
    return set(used.values())


def close(in_shares, whole, **tolerance):
    flat = jax.tree.leaves(jax.device_get(in_shares)), jax.tree.leaves(jax.device_get(whole))
    for share, array in zip(*flat, strict=True):
        joined = shares.joined(share, array.shape) if array.ndim else share
        np.testing.assert_allclose(joined, array, **tolerance)


RULES = {
    "sgd": optimizers.sgd(0.9, True, 1e-2, decay_norms=False),
    "adamw": optimizers.adamw(weight_decay=1e-2, decay_norms=False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_parameters_in_shares_take_the_steps_of_whole_ones_with_an_eighth_of_the_memory(name):
    # Adam turns a rounding difference of a gradient near zero into a step of another sign.
    tolerance = {"sgd": 1e-5, "adamw": 2e-3}[name]
    count = 3 if name == "sgd" else 1
    placement, before, after = steps(RULES[name], True, count)
    _, whole_before, whole_after = steps(RULES[name], False, count)
    close(after.params, whole_after.params, rtol=1e-3, atol=tolerance)
    close(after.averages["params"], whole_after.averages["params"], rtol=1e-3, atol=tolerance)
    for key, total in jax.device_get(whole_after.totals).items():
        assert float(after.totals[key]) == pytest.approx(float(total), rel=1e-4), key
    for ours, theirs in zip(*map(jax.tree.leaves, (after.batch_stats, whole_after.batch_stats)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)

    # What an axis of eight cannot divide is filled up.
    (of_shares,), (of_whole,) = map(bytes_on_each_device, (after, whole_after))
    assert of_whole / 8 <= of_shares < of_whole / 8 * 1.1
    assert bytes_on_each_device(before) == {of_shares}

    blocks = TRAINED[1:-1]
    start, whole_start = (Start(state.params, state.batch_stats) for state in (before, whole_before))
    counts = numbers_in_kernels(blocks)
    variations, finite = measure_pass_in_shares(blocks, counts, placement, start, after)(start, after)
    expected, _ = measure_pass(blocks)(whole_start, whole_after)
    assert finite
    np.testing.assert_allclose(variations, expected, rtol=1e-3 if name == "sgd" else 0.05)


def numbers_in_kernels(blocks):
    def of(block):
        leaves = jax.tree_util.tree_leaves_with_path(variables()["params"][block])
        return sum(leaf.size for path, leaf in leaves if path[-1].key == "kernel")

    return np.array([of(block) for block in blocks])


def test_a_share_keeps_the_number_of_axes_and_comes_back_whole():
    rng = np.random.default_rng(0)
    tree = {
        "a": rng.normal(size=(3, 5, 2)),
        "b": rng.normal(size=7),
        "c": np.float64(3.0),
        "d": rng.normal(size=(8, 2)),
    }
    rows = shares.cut(tree, 4)
    assert {name: leaf.shape for name, leaf in rows.items()} == {
        "a": (4, 1, 1, 8),
        "b": (4, 2),
        "c": (),
        "d": (4, 1, 4),
    }
    for name in "abd":
        np.testing.assert_array_equal(shares.joined(rows[name], tree[name].shape), tree[name])
    assert float(rows["c"]) == 3.0


def test_the_gradient_of_a_share_is_the_mean_over_the_devices():
    replicas = Replicas(tuple(jax.devices()[:4]))
    tree = {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3), "scale": np.float32(2.0)}
    factors = np.arange(1.0, 5.0, dtype=np.float32)

    def gradient(own, factor):
        def loss(own):
            whole = shares.gathered(own, tree, AXIS)
            return factor[0] * (whole["scale"] * whole["kernel"] ** 2).sum()

        return jax.grad(loss)(own)

    placed = replicas.share(tree)
    axes = shares.axes(placed)
    found = jax.device_get(replicas.map(gradient, (axes, 0), axes)(placed, replicas.split(factors)))
    expected = 2.5 * 2 * 2 * tree["kernel"]
    np.testing.assert_allclose(shares.joined(found["kernel"], (2, 3)), expected, rtol=1e-6)
    assert found["scale"] == pytest.approx(2.5 * (tree["kernel"] ** 2).sum())


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_optimisers_that_may_be_in_shares_take_every_number_by_itself(name):
    rng = np.random.default_rng(0)
    params = {"head": {"kernel": rng.normal(size=(3, 5)), "bias": rng.normal(size=5)}}
    gradients = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    rule = optimizers.sgd(decay_norms=False) if name == "sgd" else None
    rule = (
        rule or optimizers.adamw(decay_norms=False)
        if name in ("sgd", "adamw")
        else optimizers.create(name, weight_decay=0.1, decay_norms=False)
    )
    optimizer = optimizers.per_block(params, {"head": 0.1}, {"head": rule})

    def after_two_steps(params, gradients):
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        return params

    whole = after_two_steps(params, gradients)
    rows = [shares.cut(tree, 4) for tree in (params, gradients)]
    of_shares = [
        after_two_steps(*[jax.tree.map(lambda leaf, r=r: leaf[r], tree) for tree in rows]) for r in range(4)
    ]
    for path, leaf in jax.tree_util.tree_leaves_with_path(whole):
        pieces = np.stack([share[path[0].key][path[1].key] for share in of_shares])
        np.testing.assert_allclose(shares.joined(pieces, leaf.shape), leaf, rtol=1e-6)
