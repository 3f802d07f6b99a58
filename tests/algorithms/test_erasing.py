"""Random erasing against its definition, one draw at a time in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from finetune_jax.algorithms import erasing


def numpy_boxes(rng, height, width, count):
    """``top, left, height, width`` by the definition; zeros where nothing fits."""
    boxes = []
    for _ in range(count):
        for _ in range(10):
            area = rng.uniform(0.02, 1 / 3) * height * width
            aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
            tall, wide = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if tall < height and wide < width:
                boxes.append(
                    (rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1), tall, wide)
                )
                break
        else:
            boxes.append((0, 0, 0, 0))
    return np.array(boxes)


def corners(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    top, left = rows[0], columns[0]
    assert mask[top : rows[-1] + 1, left : columns[-1] + 1].all()
    return top, left, rows[-1] + 1 - top, columns[-1] + 1 - left


@pytest.mark.parametrize("size", [(32, 32), (12, 40)])
def test_boxes_are_distributed_as_defined(size):
    count = 5000
    keys = jax.random.split(jax.random.key(0), count)
    masks = np.asarray(jax.jit(jax.vmap(lambda key: erasing.box(key, *size)))(keys))
    ours = np.array([corners(mask) for mask in masks])
    theirs = numpy_boxes(np.random.default_rng(0), *size, count)
    for one, other in zip(ours.T, theirs.T, strict=True):
        assert scipy.stats.ks_2samp(one, other).pvalue > 1e-3
    assert scipy.stats.ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3


def test_a_box_is_filled_with_normal_noise_as_often_as_asked_for():
    keys = jax.random.split(jax.random.key(1), 2000)
    image = jnp.full((16, 16, 3), 50.0)
    erased = np.asarray(jax.jit(jax.vmap(lambda key: erasing.erase(key, image, probability=0.25)))(keys))
    changed = erased != 50
    assert scipy.stats.binomtest(int(changed.any((1, 2, 3)).sum()), 2000, 0.25).pvalue > 1e-3
    assert scipy.stats.kstest(erased[changed][:5000], scipy.stats.norm.cdf).pvalue > 1e-3
    np.testing.assert_array_equal(changed.any(-1), changed.all(-1))


def test_nothing_is_erased_with_probability_zero_and_always_with_one():
    image = jnp.ones((9, 9, 3))
    np.testing.assert_array_equal(erasing.erase(jax.random.key(2), image, probability=0.0), image)
    assert (np.asarray(erasing.erase(jax.random.key(2), image, probability=1.0)) != 1).any()
