"""Resident and streamed feeds: the same batches, in the same order, none lost."""

import gc
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import host_work
from finetune_jax.data.feeds import create_feed
from finetune_jax.data.order import evaluation_order, training_order
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.errors import UserError
from finetune_jax.training import evaluation

COUNT = 37


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    path = tmp_path_factory.mktemp("cache") / "images.npy"
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 3), dtype=np.uint8)
    np.save(path, images)
    mapped = np.load(path, mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    return SimpleNamespace(images=mapped, labels=np.arange(COUNT, dtype=np.int32))


def digest_step(state, batch):
    """A step whose result depends on every pixel, label and slot and on the order of batches."""
    weights = 1.0 + batch.labels + 0.5 * batch.slots
    value = (batch.images.astype(jnp.float32).mean((1, 2, 3)) * weights).sum()
    if batch.aspects is not None:
        value += (batch.aspects * weights).sum()
    if batch.weights is not None:
        value += (batch.weights * weights).sum()
    seen = jnp.zeros((2 * COUNT,), jnp.int32).at[batch.labels].add(1)
    return {
        "value": 0.9 * state["value"] + jax.lax.psum(value, AXIS),
        "seen": state["seen"] + jax.lax.psum(seen, AXIS),
    }


def train(arrays, devices, *, resident, steps_per_dispatch=1, batch_size=8, **of_images):
    replicas = Replicas(tuple(jax.devices()[:devices]))
    feed = create_feed(
        arrays, replicas, resident=resident, steps_per_dispatch=steps_per_dispatch, **of_images
    )
    run = feed.compile_training(digest_step)
    state = replicas.replicate({"value": np.float32(0), "seen": np.zeros(2 * COUNT, np.int32)})
    taken = []
    for epoch in range(2):
        order = training_order(COUNT, batch_size, seed=3, epoch=epoch)
        for state, steps in run(state, order):  # noqa: B007, B020
            taken.append(steps)
    return jax.device_get(state), taken


@pytest.mark.parametrize("devices", [1, 4])
def test_streamed_batches_equal_the_resident_ones_bit_for_bit(arrays, devices):
    resident, _ = train(arrays, devices, resident=True)
    streamed, _ = train(arrays, devices, resident=False)
    assert resident["value"] == streamed["value"]
    np.testing.assert_array_equal(resident["seen"], streamed["seen"])
    order = np.concatenate([training_order(COUNT, 8, seed=3, epoch=epoch) for epoch in range(2)])
    np.testing.assert_array_equal(resident["seen"][:COUNT], np.bincount(order.ravel(), minlength=COUNT))


@pytest.mark.parametrize("resident", [True, False])
def test_python_does_not_search_for_garbage_what_existed_before_the_steps(arrays, resident):
    replicas = Replicas(tuple(jax.devices()[:1]))
    feed = create_feed(arrays, replicas, resident=resident, steps_per_dispatch=1)
    run = feed.compile_training(digest_step)
    order = training_order(COUNT, 8, seed=3, epoch=0)

    def start():
        return replicas.replicate({"value": np.float32(0), "seen": np.zeros(2 * COUNT, np.int32)})

    existing = []
    for _ in run(start(), order):
        assert not any(found is existing for found in gc.get_objects())
    assert any(found is existing for found in gc.get_objects())
    given_up = run(start(), order)
    next(given_up)
    given_up.close()
    assert any(found is existing for found in gc.get_objects())


def test_every_image_comes_with_its_own_aspect_and_weight(arrays):
    aspects, weights = np.random.default_rng(1).uniform(0.5, 2, (2, COUNT)).astype(np.float32)
    value = 0.0
    for epoch in range(2):
        for row in training_order(COUNT, 8, seed=3, epoch=epoch):
            seen = np.asarray(arrays.images[row], np.float64).mean((1, 2, 3)) + aspects[row] + weights[row]
            value = 0.9 * value + (seen * (1 + row + 0.5 * np.arange(8))).sum()
    for resident in (True, False):
        state, _ = train(arrays, 2, resident=resident, aspects=aspects, weights=weights)
        assert state["value"] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("resident", [True, False])
def test_the_work_of_the_host_does_not_grow_with_the_number_of_devices(resident):
    one, many = (host_work.count(devices, resident=resident) for devices in (1, 8))
    for what in ("calls", "transfers", "bytes"):
        assert one[what] == many[what] > 0, what
    longer = host_work.count(8, resident=resident, steps=16)
    assert longer["transfers"] > many["transfers"]  # the count would notice a step's


def test_the_number_of_devices_does_not_change_the_batches(arrays):
    one, _ = train(arrays, 1, resident=True)
    four, _ = train(arrays, 4, resident=True)
    np.testing.assert_allclose(one["value"], four["value"], rtol=1e-6)
    np.testing.assert_array_equal(one["seen"], four["seen"])


def test_several_steps_per_dispatch_equal_single_ones_with_one_compilation(arrays, compilations):
    single, taken = train(arrays, 2, resident=True)
    assert taken == [1] * 8
    before = compilations.count
    several, taken = train(arrays, 2, resident=True, steps_per_dispatch=3)
    assert taken == [3, 1, 3, 1]
    assert compilations.count == before + 1
    np.testing.assert_allclose(single["value"], several["value"], rtol=1e-6)
    np.testing.assert_array_equal(single["seen"], several["seen"])


def test_a_cache_file_cut_short_is_an_error_and_not_garbage(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, np.zeros((8, 4, 4, 3), np.uint8))
    images = np.load(path, mmap_mode="r")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 10)
    cut = SimpleNamespace(images=images, labels=np.zeros(8, np.int32))
    feed = create_feed(cut, Replicas((jax.devices()[0],)), resident=False, steps_per_dispatch=1)
    with pytest.raises(UserError, match="cut short"):
        list(feed.batches(evaluation_order(8, 4)))


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("devices", [1, 8])
def test_evaluation_gives_one_row_per_example_in_order(arrays, resident, devices):
    replicas = Replicas(tuple(jax.devices()[:devices]))
    feed = create_feed(arrays, replicas, resident=resident, steps_per_dispatch=1)
    run = evaluation.compile_evaluation(
        lambda scale, images: scale * images.astype(jnp.float32).sum((1, 2)), replicas, batch_size=10
    )
    rows = run(replicas.replicate(np.float32(2)), feed, COUNT)
    expected = 2 * np.asarray(arrays.images, np.float64).sum((1, 2))
    np.testing.assert_array_equal(rows, expected)


def test_two_splits_share_one_compiled_evaluation(arrays, compilations):
    replicas = Replicas(tuple(jax.devices()[:2]))
    run = evaluation.compile_evaluation(
        lambda scale, images: scale * images.astype(jnp.float32).sum((1, 2)), replicas, batch_size=10
    )
    feeds = [
        create_feed(
            SimpleNamespace(images=arrays.images[:n], labels=arrays.labels[:n]),
            replicas,
            resident=False,
            steps_per_dispatch=1,
        )
        for n in (20, COUNT)
    ]
    scale = replicas.replicate(np.float32(2))
    before = compilations.count
    for feed, count in zip(feeds, (20, COUNT), strict=True):
        run(scale, feed, count)
    assert compilations.count == before + 1


def test_each_process_takes_its_own_columns_of_a_batch():
    order = evaluation_order(12, 6)
    parts = [
        Replicas((jax.devices()[0],), process_index=i, process_count=2).local_columns(order) for i in range(2)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), order)


def test_a_batch_that_does_not_divide_says_which_would():
    replicas = Replicas(tuple(jax.devices()[:8]))
    replicas.check_batch_size(16)
    with pytest.raises(UserError, match=r"--batch_size=20 does not divide by the 8 devices; use 16 or 24"):
        replicas.check_batch_size(20)
    with pytest.raises(UserError, match=r"use 8$"):
        replicas.check_batch_size(5)
