"""Augmentations against what their names promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_jax import augmentation

IMAGE = np.random.default_rng(0).uniform(0, 255, (16, 24, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 400)


def samples(name):
    return np.asarray(jax.vmap(augmentation.BY_NAME[name], (0, None))(KEYS, jnp.asarray(IMAGE)))


def test_none_changes_nothing():
    assert (samples("none") == IMAGE).all()


def test_flip_mirrors_left_and_right_half_of_the_time():
    images = samples("flip")
    mirrored = (images == IMAGE[:, ::-1]).all((1, 2, 3))
    assert (mirrored | (images == IMAGE).all((1, 2, 3))).all()
    assert 0.5 - 5 * 0.025 < mirrored.mean() < 0.5 + 5 * 0.025


def shifted(top, left):
    """NumPy's answer: the image moved by (2 - top, 3 - left), edges repeated."""
    padded = np.pad(IMAGE, ((2, 2), (3, 3), (0, 0)), mode="edge")
    return padded[top : top + 16, left : left + 24]


def test_pad_crop_gives_every_shift_of_up_to_an_eighth_about_equally_often():
    counts = {}
    shifts = {shifted(top, left).tobytes(): (top, left) for top in range(5) for left in range(7)}
    for image in samples("pad_crop"):
        place = shifts[image.tobytes()]
        counts[place] = counts.get(place, 0) + 1
    assert len(counts) == 35
    assert max(counts.values()) < 400 / 35 + 6 * np.sqrt(400 / 35)


def test_pad_crop_flip_is_a_shift_mirrored_or_not():
    expected = {shifted(top, left).tobytes() for top in range(5) for left in range(7)}
    mirrored = 0
    for image in samples("pad_crop_flip"):
        straight = image.tobytes() in expected
        assert straight or np.ascontiguousarray(image[:, ::-1]).tobytes() in expected
        mirrored += not straight
    assert 140 < mirrored < 260


@pytest.mark.parametrize("name", augmentation.BY_NAME)
def test_the_same_key_gives_the_same_image_of_the_same_size(name):
    function = augmentation.BY_NAME[name]
    first, second = (function(jax.random.key(9), jnp.asarray(IMAGE)) for _ in range(2))
    assert first.shape == IMAGE.shape
    np.testing.assert_array_equal(first, second)


def test_crop_gives_every_place_about_equally_often():
    crop = augmentation.create("crop", 13)
    images = np.asarray(jax.vmap(crop, (0, None))(KEYS, jnp.asarray(IMAGE[:, :16])))
    places = {
        np.ascontiguousarray(IMAGE[top : top + 13, left : left + 13]).tobytes(): (top, left)
        for top in range(4)
        for left in range(4)
    }
    counts = np.zeros((4, 4))
    for image in images:
        counts[places[image.tobytes()]] += 1
    assert counts.min() > 0
    assert counts.max() < 25 + 6 * np.sqrt(25)
