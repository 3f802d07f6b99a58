"""Augmentations against what their names promise."""

import colorsys
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from finetune_jax.algorithms import augmentation, colour
from finetune_jax.config.choices import AUGMENTATIONS, CROPPING
from finetune_jax.data.decode import Preprocessing, preprocess

IMAGE = np.random.default_rng(0).uniform(0, 255, (16, 24, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 400)
jitted_resample = jax.jit(augmentation.resample, static_argnums=2)
jitted_box = jax.jit(augmentation.random_box)
jitted_shift_hue = jax.jit(augmentation.shift_hue)
jitted_adjust = jax.jit(augmentation.adjust)


def over_keys(function, *arguments, keys=KEYS):
    """``function(key, *arguments)`` of every key, as NumPy arrays."""
    mapped = jax.jit(jax.vmap(function, (0, *(None for _ in arguments))))
    return jax.tree.map(np.asarray, mapped(keys, *arguments))


def samples(name):
    return over_keys(augmentation.BY_NAME[name], IMAGE)


def test_none_changes_nothing():
    assert (samples("none") == IMAGE).all()


def test_flip_mirrors_left_and_right_half_of_the_time():
    images = samples("flip")
    mirrored = (images == IMAGE[:, ::-1]).all((1, 2, 3))
    assert (mirrored | (images == IMAGE).all((1, 2, 3))).all()
    assert 0.5 - 5 * 0.025 < mirrored.mean() < 0.5 + 5 * 0.025


def test_dihedral_gives_each_turn_and_its_mirror_image_an_eighth_of_the_time():
    square = IMAGE[:, :16]
    views = [np.rot90(mirrored, turns) for mirrored in (square, square[:, ::-1]) for turns in range(4)]
    images = over_keys(augmentation.dihedral, square)
    counts = [(images == view).all((1, 2, 3)).sum() for view in views]
    assert sum(counts) == len(KEYS)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    with pytest.raises(ValueError, match="only squares"):
        augmentation.dihedral(KEYS[0], IMAGE)


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


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "auto"])
def test_the_same_key_gives_the_same_image_of_the_size_asked_for(name):
    size = 13 if name in CROPPING else 16
    function = jax.jit(augmentation.create(name, size, shorter_side=15, hue_jitter=0.1))
    first, second = (function(jax.random.key(9), IMAGE[:, :16], np.float32(1.25)) for _ in range(2))
    assert first.shape == (size, size, 3)
    assert first.dtype == jnp.float32
    np.testing.assert_array_equal(first, second)


def test_crop_gives_every_place_about_equally_often():
    images = over_keys(augmentation.create("crop", 13), IMAGE[:, :16])
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


# --- boxes of an image ---------------------------------------------------------------------------------------


def pillow_box(image, box, size):
    """Pillow's answer to ``resample``, in floating point; the box as left, upper, right, lower pixels."""
    channels = [
        np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR, box=box))
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack(channels, -1)


@given(st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0, 1), st.floats(0, 1), st.sampled_from([5, 16, 40]))
def test_a_box_is_resampled_as_pillow_does_it(height, width, down, right, size):
    top, left = down * (1 - height), right * (1 - width)
    box = augmentation.Box(*map(np.float32, (top, left, height, width)))
    edges = (24 * left, 16 * top, min(24.0, 24 * (left + width)), min(16.0, 16 * (top + height)))
    np.testing.assert_allclose(jitted_resample(IMAGE, box, size), pillow_box(IMAGE, edges, size), atol=0.02)


def test_a_crop_in_proportion_is_one_of_the_image_before_it_was_stretched():
    """Kept as 16 × 16; in proportion 8 high and 12 wide."""
    square = IMAGE[:, :16]
    crop = augmentation.create("crop", 6, shorter_side=8)
    images = over_keys(crop, square, np.float32(1.5))
    places = [(top, left) for top in range(3) for left in range(7)]
    answers = np.stack(
        [
            pillow_box(square, (left * 16 / 12, top * 2, (left + 6) * 16 / 12, (top + 6) * 2), 6)
            for top, left in places
        ]
    )
    distances = np.abs(images[:, None] - answers).max((2, 3, 4))
    assert distances.min(1).max() < 0.02
    counts = np.bincount(distances.argmin(1), minlength=21)
    assert counts.min() > 0
    assert counts.max() < 400 / 21 + 6 * np.sqrt(400 / 21)


def test_a_crop_of_a_square_kept_at_its_size_is_not_blurred():
    crop = augmentation.create("crop", 13, shorter_side=16)
    square = IMAGE[:, :16]
    np.testing.assert_allclose(over_keys(crop, square, np.float32(1)), over_keys(crop, square), atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(48, 72), (72, 48)])
def test_the_stretch_of_a_photograph_is_undone(height, width):
    """A level more per pixel, down in red and to the right in green, is as much per pixel of any crop."""
    photo = np.zeros((height, width, 3), np.uint8)
    photo[..., 0] = np.arange(height)[:, None]
    photo[..., 1] = np.arange(width)[None]
    square = preprocess(photo, Preprocessing(36, 36)).astype(np.float32)
    crop = augmentation.create("random_crop", 21, shorter_side=24)
    images = over_keys(crop, square, np.float32(width / height), keys=KEYS[:20])
    down = (images[:, 17, 3:18, 0] - images[:, 3, 3:18, 0]) / 14
    right = (images[:, 3:18, 17, 1] - images[:, 3:18, 3, 1]) / 14
    np.testing.assert_allclose(down, 2, atol=0.1)
    np.testing.assert_allclose(np.abs(right), 2, atol=0.1)
    assert {-1, 1} == set(np.sign(right).ravel())


def numpy_boxes(rng, aspect, count):
    """``top, left, height, width`` by the definition, one at a time, on an image of this aspect and area 1."""
    full_height, full_width = 1 / np.sqrt(aspect), np.sqrt(aspect)
    boxes = []
    for _ in range(count):
        for _ in range(10):
            area, shape = rng.uniform(0.08, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            height, width = np.sqrt(area / shape), np.sqrt(area * shape)
            if height <= full_height and width <= full_width:
                top, left = rng.uniform(0, full_height - height), rng.uniform(0, full_width - width)
                break
        else:
            shape = np.clip(aspect, 3 / 4, 4 / 3)
            height = min(full_height, full_width / shape)
            width = height * shape
            top, left = (full_height - height) / 2, (full_width - width) / 2
        boxes.append((top / full_height, left / full_width, height / full_height, width / full_width))
    return np.array(boxes).T


@pytest.mark.parametrize("aspect", [None, 1.5, 0.4])
def test_boxes_are_distributed_as_defined(aspect):
    keys = jax.random.split(jax.random.key(11), 10_000)
    arguments = () if aspect is None else (np.float32(aspect),)
    ours = np.array(over_keys(augmentation.random_box, *arguments, keys=keys), np.float64)
    aspect = aspect or 1.0  # without one the image is a square
    theirs = numpy_boxes(np.random.default_rng(0), aspect, 10_000)

    def described(boxes):
        top, left, height, width = boxes
        return (top, left, height * width, np.log(width / height * aspect))

    for one, other in zip(described(ours), described(theirs), strict=True):
        # One box in a hundred is the fallback at aspect 0.4: equal numbers, but for rounding.
        assert scipy.stats.ks_2samp(one.round(5), other.round(5)).pvalue > 1e-3


@given(st.floats(0.05, 20), st.integers(0, 2**31 - 1))
def test_a_box_lies_in_its_image_and_has_an_allowed_shape(aspect, seed):
    top, left, height, width = map(float, jitted_box(jax.random.key(seed), np.float32(aspect)))
    assert 0 <= top <= top + height <= 1 + 1e-6
    assert 0 <= left <= left + width <= 1 + 1e-6
    assert 3 / 4 - 1e-5 <= width / height * aspect <= 4 / 3 + 1e-5
    central = abs(top - (1 - height) / 2) < 1e-6 and abs(left - (1 - width) / 2) < 1e-6
    assert height * width >= 0.08 - 1e-6 or central


@pytest.mark.parametrize(("aspect", "expected"), [(20, (1, 1 / 15)), (1 / 20, (1 / 15, 1))])
def test_images_too_long_for_any_box_give_their_middle(aspect, expected):
    top, left, height, width = jitted_box(jax.random.key(0), np.float32(aspect))
    np.testing.assert_allclose((height, width), expected, rtol=1e-5)
    np.testing.assert_allclose((2 * top + height, 2 * left + width), 1, rtol=1e-5)


def test_random_resized_crop_without_colours_is_a_box_mirrored_half_of_the_time():
    square = jnp.asarray(IMAGE[:, :16])
    crop = augmentation.create("random_resized_crop", 8, color_jitter=0)

    def both(key):
        box = augmentation.random_box(jax.random.split(key, 3)[0], 1.5)
        return crop(key, square, 1.5), augmentation.resample(square, box, 8)

    images, straight = over_keys(both)
    same = np.isclose(images, straight, atol=1e-3).all((1, 2, 3))
    mirrored = np.isclose(images, straight[:, :, ::-1], atol=1e-3).all((1, 2, 3))
    assert (same | mirrored).all()
    assert 150 < mirrored.sum() < 250


# --- colours -------------------------------------------------------------------------------------------------

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def pillow_colours(pixels, order, factors):
    image = Image.fromarray(pixels)
    for what, factor in zip(order, factors, strict=True):
        image = ENHANCERS[what](image).enhance(factor)
    return np.asarray(image, np.float32)


@pytest.mark.parametrize("what", range(3))
@given(st.floats(0, 2))
def test_each_change_of_colours_is_pillows(what, factor):
    pixels = IMAGE.astype(np.uint8)
    ours = jitted_adjust(pixels.astype(np.float32), np.array([what]), np.array([factor], np.float32))
    # Pillow cuts off fractions and rounds the mean grey.
    np.testing.assert_allclose(ours, pillow_colours(pixels, [what], [factor]), atol=2.1)


@pytest.mark.parametrize("order", tuple(permutations(range(3))))
def test_changes_of_colours_follow_each_other_in_the_order_given(order):
    pixels = IMAGE.astype(np.uint8)
    factors = (1.4, 0.6, 1.4)
    image = pixels.astype(np.float32)
    ours = np.asarray(jitted_adjust(image, np.array(order), np.array(factors, np.float32)))
    distances = {
        other: np.abs(ours - pillow_colours(pixels, other, [factors[order.index(i)] for i in other])).max()
        for other in permutations(range(3))
    }
    assert distances.pop(order) < 4
    assert min(distances.values()) > 8


@given(st.integers(0, 2**31 - 1), st.floats(-0.5, 0.5))
def test_the_hue_moves_as_in_colorsys(seed, shift):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.float32)
    pixels[0, 0], pixels[0, 1], pixels[0, 2] = 0, 255, (70, 70, 30)
    expected = np.empty_like(pixels)
    for place in np.ndindex(4, 5):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[place] / 255))
        expected[place] = 255 * np.array(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value))
    np.testing.assert_allclose(jitted_shift_hue(pixels, shift), expected, atol=0.01)


def test_factors_of_colours_are_uniform_and_independent():
    """Without clipping the mean tells of brightness, greys of brightness · contrast, colours of all three."""
    image = np.full((4, 4, 3), 90, np.float32)
    image[:2] += 20
    weights = np.array([0.299, 0.587, 0.114])
    image[:, 0] += (8, -8 * 0.299 / 0.587, 0)  # another colour of the same grey
    keys = jax.random.split(jax.random.key(3), 2000)
    changed = over_keys(lambda key: augmentation.jitter(key, jnp.asarray(image), strength=0.4), keys=keys)
    grey = changed @ weights
    brightness = grey.mean((1, 2)) / 100
    contrast = (grey[:, 0, 0] - grey[:, 3, 0]) / 20 / brightness
    saturation = (changed[:, 0, 0, 0] - grey[:, 0, 0]) / 8 / brightness / contrast
    factors = np.stack([brightness, contrast, saturation])
    for drawn in factors:
        assert scipy.stats.kstest(drawn, scipy.stats.uniform(0.6, 0.8).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(factors) - np.eye(3)).max() < 5 / np.sqrt(2000)


def test_colours_change_in_every_order_about_equally_often(monkeypatch):
    monkeypatch.setattr(colour, "adjust", lambda image, order, factors: order)
    orders = over_keys(lambda key: augmentation.jitter(key, jnp.zeros((2, 2, 3)), strength=0.4))
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert counts.max() < 400 / 6 + 5 * np.sqrt(400 / 6)


def test_the_hue_moves_by_up_to_its_share_and_not_at_all_by_default():
    image = jnp.tile(jnp.array([200.0, 100.0, 100.0]), (1, 1, 1))
    still = augmentation.jitter(KEYS[0], image, strength=0)
    np.testing.assert_array_equal(still, image)
    moved = over_keys(lambda key: augmentation.jitter(key, image, strength=0, hue=0.1))
    hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in moved[:, 0, 0]])
    signed = (hues + 0.5) % 1 - 0.5
    assert scipy.stats.kstest(signed, scipy.stats.uniform(-0.1, 0.2).cdf).pvalue > 1e-3
