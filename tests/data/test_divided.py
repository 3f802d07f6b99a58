"""Splits in shards: every process has its own, and whoever has which, the batches and scores are the same."""

import dataclasses
import json
import os
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_jax.data import digests, divided, image_files, sources
from finetune_jax.data.cache import materialise
from finetune_jax.data.decode import Preprocessing
from finetune_jax.data.divided import Division
from finetune_jax.data.examples import Examples
from finetune_jax.data.feeds import create_feed
from finetune_jax.data.order import (
    evaluation_order_of_shards,
    rows_of_shards,
    training_order_of_shards,
)
from finetune_jax.devices import cluster
from finetune_jax.devices.replicas import Replicas
from finetune_jax.training import evaluation

COUNT, SHARDS = 37, 4


@given(st.integers(0, 60), st.integers(1, 7))
def test_every_example_is_in_one_shard_and_shards_are_equally_large(count, shards):
    rows = rows_of_shards(count, shards)
    assert sorted(np.concatenate(rows).tolist()) == list(range(count))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_shards_have_images_of_all_classes_of_a_sorted_data_set():
    labels = np.repeat(np.arange(10), 100)
    for rows in rows_of_shards(1000, 4):
        assert np.bincount(labels[rows], minlength=10).min() > 10


@given(st.integers(1, 80), st.integers(1, 4), st.integers(1, 3), st.integers(0, 4))
def test_a_batch_takes_its_columns_from_one_shard_after_the_other(count, shards, width, epoch):
    rows, batch_size = rows_of_shards(count, shards), shards * width
    if count < batch_size:
        with pytest.raises(ValueError, match="do not fill a batch"):
            training_order_of_shards(rows, batch_size, seed=1, epoch=epoch)
        return
    order = training_order_of_shards(rows, batch_size, seed=1, epoch=epoch)
    # As many steps as without shards.
    assert order.shape == (count // batch_size, batch_size)
    assert len(np.unique(order)) == order.size
    for shard, own in enumerate(rows):
        assert set(order[:, shard * width : (shard + 1) * width].ravel().tolist()) <= set(own.tolist())


def test_orders_within_shards_differ_by_epoch_seed_and_shard():
    rows = [np.arange(50), 50 + np.arange(50)]
    orders = [training_order_of_shards(rows, 10, seed=s, epoch=e) for s in (0, 1) for e in (0, 1)]
    for number, first in enumerate(orders):
        assert not np.array_equal(first[:, :5] + 50, first[:, 5:])
        for second in orders[:number]:
            assert not np.array_equal(first, second)


def test_a_large_shard_is_read_in_blocks_within_windows_and_none_is_lost():
    count = 100_003
    order = training_order_of_shards([np.arange(count)], 1, seed=0, epoch=0)[:, 0]
    assert len(np.unique(order)) == count
    for start in range(0, count, 16_384):
        assert len(np.unique(order[start : start + 16_384] // 64)) <= 257  # the last block may be cut
    # Neighbours in the shard are none in the order.
    assert np.mean(np.abs(np.diff(order)) < 64) < 0.02
    assert not np.array_equal(order, training_order_of_shards([np.arange(count)], 1, seed=0, epoch=1)[:, 0])


@given(st.integers(1, 50), st.integers(1, 5), st.integers(1, 4))
def test_evaluation_takes_every_example_once_and_fills_up_the_rest(count, shards, width):
    order, is_example = evaluation_order_of_shards(rows_of_shards(count, shards), shards * width)
    assert sorted(order[is_example].tolist()) == list(range(count))
    assert order.min() >= 0
    assert order.max() < count


def examples(opened):
    """Images whose pixels are their number; ``opened`` gets the numbers that were decoded."""

    def read(index):
        opened.append(index)
        return np.full((4, 4, 3), index, np.uint8)

    return Examples(
        labels=np.arange(COUNT, dtype=np.int32) % 3,
        names=[str(index) for index in range(COUNT)],
        read=read,
        fingerprint="images",
    )


def process(cache, index, count):
    """The images as one of several processes has them, and the numbers of those that it decoded."""
    opened = []
    arrays = divided.materialise(
        examples(opened),
        Preprocessing(4, 4),
        Division(SHARDS, index, count),
        lambda part, title: materialise(part, Preprocessing(4, 4), cache_dir=cache, workers=1, title=title),
        title="decoding",
    )
    return arrays, set(opened)


def size_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("images.npy"))


def test_each_process_decodes_and_keeps_half_and_has_any_image_when_asked(tmp_path):
    whole, everything = process(tmp_path / "one", 0, 1)
    assert everything == set(range(COUNT))
    rows = rows_of_shards(COUNT, SHARDS)
    for index in range(2):
        cache = tmp_path / f"process{index}"
        arrays, opened = process(cache, index, 2)
        assert opened == set(np.concatenate(rows[2 * index : 2 * index + 2]).tolist())
        assert size_of(cache) == pytest.approx(size_of(tmp_path / "one") / 2, rel=0.06)
        np.testing.assert_array_equal(arrays.images[np.arange(COUNT)][:, 0, 0, 0], np.arange(COUNT))
        np.testing.assert_array_equal(arrays.labels, whole.labels)
    # A process that takes over all shards finds them decoded.
    _, opened = process(tmp_path / "one", 1, 2)
    assert not opened


def test_processes_read_the_columns_that_one_process_gives_to_its_devices(tmp_path):
    def batches(index, count):
        arrays, _ = process(tmp_path, index, count)
        replicas = Replicas(tuple(jax.devices()[: 2 // count]), 0, 1)
        feed = create_feed(arrays, replicas, resident=False, steps_per_dispatch=1)
        order = training_order_of_shards(feed.rows, 8, seed=0, epoch=0)
        own = Replicas(replicas.devices, index, count).local_columns(order)
        return [np.asarray(images).reshape(-1, 4, 4, 3) for images in feed.batches(own)]

    one, halves = batches(0, 1), [batches(index, 2) for index in range(2)]
    for step, images in enumerate(one):
        np.testing.assert_array_equal(images, np.concatenate([half[step] for half in halves]))


@pytest.fixture(scope="module")
def feed():
    """Two devices with images in four shards, and their labels."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (COUNT, 4, 4, 3), dtype=np.uint8)
    rows = rows_of_shards(COUNT, SHARDS)
    kept = {shard: pixels[own] for shard, own in enumerate(rows)}
    images = divided.Images(rows, kept, lambda index: pixels[index], pixels.shape)
    arrays = SimpleNamespace(images=images, labels=rng.integers(0, 5, COUNT).astype(np.int32))
    replicas = Replicas(tuple(jax.devices()[:2]))
    return (
        create_feed(arrays, replicas, resident=False, steps_per_dispatch=1),
        arrays.labels,
        pixels,
        replicas,
    )


def logits(variables, images):
    return images.astype(jnp.float32).reshape(len(images), -1) @ variables


def test_outputs_come_in_the_order_of_the_examples(feed):
    feed, _, pixels, replicas = feed
    weights = np.random.default_rng(1).normal(size=(48, 6)).astype(np.float32)
    evaluate = evaluation.compile_evaluation(logits, replicas, batch_size=10)
    found = evaluate(replicas.replicate(weights), feed, COUNT)
    np.testing.assert_allclose(found, pixels.reshape(COUNT, -1).astype(np.float32) @ weights, rtol=1e-4)


def test_scores_counted_on_the_devices_are_those_of_all_outputs(feed):
    feed, labels, pixels, replicas = feed
    # The sixth class has no image; the balanced accuracy leaves it out.
    weights = np.random.default_rng(1).normal(size=(48, 6)).astype(np.float32) / 500
    outputs = pixels.reshape(COUNT, -1).astype(np.float32) @ weights
    counts = evaluation.compile_counts(logits, replicas, 6, batch_size=10)(
        replicas.replicate(weights), feed, labels
    )
    found = evaluation.scores_of_counts(counts, "validation")
    expected = evaluation.classification_scores(outputs, labels, "validation")
    assert found == pytest.approx(expected, rel=1e-6)
    assert 0 < expected["validation_accuracy"] < 1


def test_all_processes_know_how_large_the_images_are(tmp_path, monkeypatch):
    class Job:
        def gather(self, text):
            assert json.loads(text) == {"4": 18}
            return ['{"3": 9, "6": 10}', text]

    monkeypatch.setattr(cluster, "active", Job)
    arrays, opened = process(tmp_path, 1, 2)
    assert (arrays.sizes[sorted(opened)] == 4).all()
    assert sorted(arrays.sizes.min(1).tolist()) == [3] * 9 + [4] * 18 + [6] * 10


def write_files(root):
    """Two classes of six files that are no images, made splits included; nothing may be read of them."""
    for number in range(12):
        file = root / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(number + 1))
        os.utime(file, ns=(0, 1_000_000_000 * (number + 1)))


def opened(root):
    return sources.load(f"folder:{root}", manifest_from=0, validation_fraction=0.25)


def test_a_manifest_tells_files_apart_without_reading_them(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a file was read")

    for reader in (digests, image_files):
        monkeypatch.setattr(reader, "read_regular", refuse)
    write_files(tmp_path / "photos")
    first = opened(tmp_path / "photos")
    assert {split: len(part) for split, part in first.splits.items()}.keys() == {
        "train",
        "validation",
        "test",
    }
    # Elsewhere it is the same data set, of which other pixels may be kept.
    write_files(tmp_path / "moved")
    moved = opened(tmp_path / "moved")
    assert moved.fingerprint == first.fingerprint
    assert moved.splits["train"].place != first.splits["train"].place
    changed = tmp_path / "moved" / "class1" / "5.png"
    os.utime(changed, ns=(0, 77))
    assert opened(tmp_path / "moved").fingerprint != first.fingerprint


def test_pixels_of_a_manifest_are_kept_for_the_place_of_their_files(tmp_path):
    for place in ("here", "there"):
        part = dataclasses.replace(examples([]), place=place)
        materialise(part, Preprocessing(4, 4), cache_dir=tmp_path, workers=1)
    assert len(list(tmp_path.glob("*/images.npy"))) == 2
