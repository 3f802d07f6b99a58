"""Operations and policies against torchvision's results on Pillow images (``golden/make_augmentation_goldens.py``)."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from finetune_jax.algorithms import augmentation_policies, image_operations

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "operations.npz")
TORCHVISION = {
    "Identity": "identity",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateX": "translate_x",
    "TranslateY": "translate_y",
    "Rotate": "rotate",
    "Brightness": "brightness",
    "Color": "color",
    "Contrast": "contrast",
    "Sharpness": "sharpness",
    "Posterize": "posterize",
    "Solarize": "solarize",
    "AutoContrast": "auto_contrast",
    "Equalize": "equalize",
}
operate = jax.jit(image_operations.operate)


def number(name):
    return image_operations.OPERATIONS.index(TORCHVISION[name])


@pytest.mark.parametrize("name", TORCHVISION)
def test_an_operation_gives_the_pixels_that_torchvision_gives(name):
    image = GOLDEN["image"].astype(np.float32)
    cases = np.flatnonzero(GOLDEN["names"] == name)
    assert len(cases)
    for case in cases:
        ours = np.asarray(operate(image, number(name), np.float32(GOLDEN["magnitudes"][case])))
        theirs = GOLDEN["results"][case].astype(np.float32)
        differing = np.abs(ours - theirs).max(-1) > 0
        if name == "rotate" or name == "Rotate":
            # By 135 degrees some pixels lie exactly between two, of which Pillow's whole numbers take the other.
            assert differing.mean() < 0.04
        elif name == "AutoContrast":
            # Pillow rounds the factor first.
            assert np.abs(ours - theirs).max() <= 1
            assert differing.mean() < 0.01
        else:
            np.testing.assert_array_equal(ours, theirs)
        if name != "Identity" and GOLDEN["magnitudes"][case] not in (0, 8, 255):
            assert not np.array_equal(ours, image)


def test_every_image_of_a_batch_may_have_an_operation_of_its_own():
    image = GOLDEN["image"].astype(np.float32)
    cases = np.flatnonzero(np.abs(GOLDEN["magnitudes"]) > 0)[::5]
    numbers = np.array([number(str(GOLDEN["names"][case])) for case in cases])
    magnitudes = GOLDEN["magnitudes"][cases].astype(np.float32)
    batch = jax.jit(jax.vmap(image_operations.operate, (None, 0, 0)))(image, numbers, magnitudes)
    for ours, operation, magnitude in zip(batch, numbers, magnitudes, strict=True):
        np.testing.assert_array_equal(ours, operate(image, operation, magnitude))


@pytest.mark.parametrize("name", ["AutoContrast", "Equalize"])
def test_an_image_of_one_colour_stays(name):
    image = np.full((6, 5, 3), 70, np.float32)
    np.testing.assert_array_equal(operate(image, number(name), 0.0), image)


SPACES = {
    "trivial_augment": augmentation_policies.trivial_augment_space(),
    "rand_augment": augmentation_policies.rand_augment_space(20, 28),
    "augmix": augmentation_policies.augmix_space(20, 28),
}


@pytest.mark.parametrize("policy", SPACES)
def test_magnitudes_are_torchvisions(policy):
    space = SPACES[policy]
    names = [key.split("/")[2] for key in GOLDEN.files if key.startswith(f"spaces/{policy}/")]
    assert sorted(space.operations) == sorted(number(name) for name in names)
    for name in names:
        row = list(space.operations).index(number(name))
        theirs = np.broadcast_to(GOLDEN[f"spaces/{policy}/{name}"], space.magnitudes[row].shape)
        np.testing.assert_allclose(space.magnitudes[row], theirs, rtol=1e-5, atol=1e-5)
        assert space.signed[row] == GOLDEN[f"signed/{policy}/{name}"]


def draws(policy, count, monkeypatch):
    """Operation and magnitude of so many draws, ``[count, 2]``; of several operations the last one."""
    monkeypatch.setattr(
        augmentation_policies,
        "operate",
        lambda image, operation, magnitude: (
            jnp.stack([jnp.float32(operation), magnitude]).reshape(1, 1, 2) + 0 * image[:1, :1, :2]
        ),
    )
    keys = jax.random.split(jax.random.key(3), count)
    image = jnp.zeros((20, 28, 3))
    return np.asarray(jax.jit(jax.vmap(policy, (0, None)))(keys, image))[:, 0, 0]


def test_trivial_augment_draws_operation_magnitude_and_sign_evenly(monkeypatch):
    drawn = draws(augmentation_policies.trivial_augment, 6000, monkeypatch)
    operations = drawn[:, 0].astype(int)
    assert scipy.stats.chisquare(np.bincount(operations, minlength=14)).pvalue > 1e-3
    rotations = drawn[operations == number("Rotate"), 1]
    assert (
        scipy.stats.chisquare(np.bincount(np.round(np.abs(rotations) / 4.5).astype(int), minlength=31)).pvalue
        > 1e-3
    )
    assert scipy.stats.binomtest(int((rotations > 0).sum()), int((rotations != 0).sum())).pvalue > 1e-3
    assert set(drawn[operations == number("Posterize"), 1]) <= set(range(2, 9))


def test_rand_augment_takes_the_magnitude_asked_for_with_either_sign(monkeypatch):
    drawn = draws(augmentation_policies.rand_augment, 3000, monkeypatch)
    operations = drawn[:, 0].astype(int)
    assert scipy.stats.chisquare(np.bincount(operations, minlength=14)).pvalue > 1e-3
    np.testing.assert_allclose(np.unique(drawn[operations == number("Rotate"), 1]), [-9, 9], rtol=1e-5)
    np.testing.assert_allclose(
        np.unique(drawn[operations == number("Solarize"), 1]), 255 * 21 / 30, rtol=1e-5
    )


def test_rand_augment_applies_two_operations_one_after_the_other():
    image = jnp.asarray(GOLDEN["image"], jnp.float32)
    keys = jax.random.split(jax.random.key(5), 40)

    def by_hand(key):
        space = augmentation_policies.rand_augment_space(20, 28)
        changed = image
        for operation_key in jax.random.split(key, 2):
            changed = augmentation_policies._drawn(operation_key, changed, space, jnp.array([9]))
        return changed

    ours = jax.jit(jax.vmap(augmentation_policies.rand_augment, (0, None)))(keys, image)
    np.testing.assert_array_equal(ours, jax.jit(jax.vmap(by_hand))(keys))
    assert len({np.asarray(each).tobytes() for each in ours}) > 30


def test_augmix_is_a_convex_mixture_of_chains_of_one_to_three_operations(monkeypatch):
    """Every operation adds a million: what comes out counts the operations of each chain by its weight."""
    monkeypatch.setattr(
        augmentation_policies, "_drawn", lambda key, image, space, bins, applied: image + 1e6 * applied
    )
    keys = jax.random.split(jax.random.key(7), 4000)
    mixed = jax.jit(jax.vmap(augmentation_policies.augmix, (0, None)))(keys, jnp.zeros((1, 1, 3)))
    depth = np.asarray(mixed)[:, 0, 0, 0] / 1e6
    assert depth.min() >= 0
    assert depth.max() < 3
    rng = np.random.default_rng(0)
    expected = (1 - rng.uniform(size=4000)) * (
        rng.dirichlet(np.ones(3), 4000) * rng.integers(1, 4, (4000, 3))
    ).sum(1)
    assert scipy.stats.ks_2samp(depth, expected).pvalue > 1e-3


@pytest.mark.parametrize("name", ["trivial_augment", "rand_augment", "augmix"])
def test_a_policy_gives_whole_numbers_and_depends_on_the_key_alone(name):
    fewer = {"chains": 2} if name == "augmix" else {}  # which compile faster than its three
    policy = jax.jit(functools.partial(getattr(augmentation_policies, name), **fewer))
    image = jnp.asarray(GOLDEN["image"], jnp.float32) + 0.3
    first, second = policy(jax.random.key(1), image), policy(jax.random.key(1), image)
    np.testing.assert_array_equal(first, second)
    assert first.shape == image.shape
    np.testing.assert_array_equal(first, np.round(first).clip(0, 255))
