"""Mean and spread of the pixels of a data set."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from finetune_jax.data.statistics import channel_statistics

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.just(3))


@given(st_numpy.arrays(np.uint8, SHAPES))
def test_they_are_those_of_all_pixels(images):
    mean, std = channel_statistics(images)
    pixels = images.reshape(-1, 3).astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-12)
    # A channel without contrast counts as one of a single grey level, so that one can divide by it.
    np.testing.assert_allclose(std, np.maximum(pixels.std(0), 1 / 255), rtol=1e-6)


def test_they_do_not_depend_on_the_order_of_many_images():
    images = np.random.default_rng(0).integers(0, 256, (2100, 2, 3, 3), np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, images.std((0, 1, 2)) / 255, rtol=1e-10)
    assert channel_statistics(images[::-1]) == (mean, std)
