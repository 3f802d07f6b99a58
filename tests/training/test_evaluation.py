"""How many images a batch of evaluation has, which is filled up: filled places cost what images do."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_jax.data.cache import Arrays
from finetune_jax.data.feeds import create_feed
from finetune_jax.devices.replicas import Replicas
from finetune_jax.training import evaluation


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=4))
def test_one_size_for_all_splits_computes_little_more_than_the_best_size_would(counts: list[int]) -> None:
    def computed(size: int) -> int:
        return sum(len(range(0, count, size)) * size for count in counts)

    chosen = evaluation.batch_size_for(*counts)
    most = 1.1 * min(computed(size) for size in (32, 64, 128, 256))
    assert computed(chosen) <= most
    assert all(computed(size) > most for size in (64, 128, 256) if size > chosen)


@pytest.mark.parametrize(("count", "places"), [(5, 32), (40, 64), (300, 320)])
@pytest.mark.parametrize("devices", [1, 8])
def test_every_image_is_computed_once_and_few_places_are_filled(
    count: int, places: int, devices: int
) -> None:
    images = np.arange(count, dtype=np.uint8).repeat(12).reshape(count, 2, 2, 3)
    sizes = np.full((count, 2), 2)
    arrays = Arrays(images, np.zeros(count, np.int32), np.arange(count), sizes)
    replicas = Replicas(jax.devices()[:devices])
    shapes = []

    def first_pixel(variables: None, images: jax.Array) -> jax.Array:
        shapes.append(images.shape)
        return images[:, 0, 0, 0]

    evaluate = evaluation.compile_evaluation(first_pixel, replicas)
    feed = create_feed(arrays, replicas, resident=True, steps_per_dispatch=1)
    outputs = evaluate(None, feed, count)
    np.testing.assert_array_equal(outputs, images[:, 0, 0, 0])
    at_once = shapes[0][0] * devices
    assert -(-count // at_once) * at_once == places
