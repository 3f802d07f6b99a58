"""Mixup and CutMix against timm's boxes, loops over pixels, and any number of devices."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from finetune_jax.algorithms import mixing

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "boxes.npz")
KEYS = jax.random.split(jax.random.key(0), 4000)


def test_boxes_are_those_of_timm():
    for size, center, share, box in zip(
        *(GOLDEN[k] for k in ("sizes", "centers", "shares", "boxes")), strict=True
    ):
        top, bottom, left, right = box
        expected = np.ones(size, np.float32)
        expected[top:bottom, left:right] = 0
        ours = mixing.box_mask(*center, np.float32(share), tuple(map(int, size)))
        np.testing.assert_array_equal(ours, expected)


def masks(size=(8, 10), **settings):
    mixes = jax.jit(jax.vmap(lambda key: mixing.draw(key, size, **settings)))(KEYS)
    return np.asarray(mixes.mask)[..., 0], np.asarray(mixes.share)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_has_one_share_for_all_pixels_from_a_beta_distribution(alpha):
    mask, share = masks(mixup=alpha)
    np.testing.assert_allclose(mask, np.broadcast_to(share[:, None, None], mask.shape), atol=1e-6)
    assert scipy.stats.kstest(share, scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_cutmix_gives_labels_the_share_of_the_pixels_and_centers_anywhere():
    mask, share = masks(cutmix=1.0)
    assert set(np.unique(mask)) == {0.0, 1.0}
    np.testing.assert_allclose(share, mask.mean((1, 2)), atol=1e-6)
    rng = np.random.default_rng(0)
    kept = rng.beta(1, 1, 4000)
    tall, wide = np.floor(np.sqrt(1 - kept) * 8), np.floor(np.sqrt(1 - kept) * 10)
    y, x = rng.integers(8, size=4000), rng.integers(10, size=4000)
    height = np.minimum(y + (tall + 1) // 2, 8) - np.maximum(y - tall // 2, 0)
    width = np.minimum(x + (wide + 1) // 2, 10) - np.maximum(x - wide // 2, 0)
    assert scipy.stats.ks_2samp(np.rint(80 * (1 - share)), height * width).pvalue > 1e-3


def test_batches_switch_between_the_two_and_stay_as_they_are_as_often_as_asked_for():
    mask, _ = masks(mixup=1.0, cutmix=1.0, probability=0.8, switch_probability=0.3)
    untouched = (mask == 1).all((1, 2))
    even = (mask == mask[:, :1, :1]).all((1, 2)) & ~untouched
    # A box may be so small that nothing is cut, which happens to boxes below half a pixel.
    boxes = ~untouched & ~even
    assert scipy.stats.binomtest(int(even.sum()), 4000, 0.8 * 0.7).pvalue > 1e-3
    assert boxes.sum() > 0.9 * 4000 * 0.8 * 0.3
    mask, share = masks(mixup=1.0, probability=0.0)
    assert (mask == 1).all()
    assert (share == 1).all()


def test_images_and_labels_are_mixed_alike():
    rng = np.random.default_rng(1)
    images = rng.uniform(size=(4, 8, 10, 3)).astype(np.float32)
    labels = np.array([0, 2, 1, 2])
    mix = mixing.draw(jax.random.key(9), (8, 10), cutmix=1.0)
    mixed = mixing.apply(mix, images, mixing.partners(images))
    soft = mixing.soft_labels(mix, labels, mixing.partners(labels), num_classes=3, smoothing=0.1)
    mask = np.asarray(mix.mask)
    for i in range(4):
        np.testing.assert_allclose(mixed[i], mask * images[i] + (1 - mask) * images[3 - i], rtol=1e-6)
        target = np.full(3, 0.1 / 3)
        target[labels[i]] += 0.9 * mask.mean()
        target[labels[3 - i]] += 0.9 * (1 - mask.mean())
        np.testing.assert_allclose(soft[i], target, rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_partners_do_not_depend_on_the_number_of_devices(devices):
    values = np.arange(32).reshape(16, 2)
    split = values.reshape(devices, 16 // devices, 2)
    mapped = jax.pmap(
        lambda share: mixing.partners(share, "batch"), axis_name="batch", devices=jax.devices()[:devices]
    )
    np.testing.assert_array_equal(np.asarray(mapped(split)).reshape(16, 2), values[::-1])
    lanes = jax.vmap(lambda share: mixing.partners(share, "batch"), axis_name="batch")(jnp.asarray(split))
    np.testing.assert_array_equal(np.asarray(lanes).reshape(16, 2), values[::-1])


@pytest.mark.parametrize("settings", [{}, {"mixup": -1.0}, {"mixup": 0.2, "cutmix": -0.1}])
def test_nothing_to_mix_with_is_refused(settings):
    with pytest.raises(ValueError, match="mixup and cutmix"):
        mixing.draw(jax.random.key(0), (4, 4), **settings)
