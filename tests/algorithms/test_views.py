"""Views against torchvision's crops and NumPy."""

from pathlib import Path

import numpy as np
import pytest

from finetune_jax.algorithms import views

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "views.npz")


def test_five_crops_are_torchvisions():
    ours = views.five_crops(np.stack([GOLDEN["image"], GOLDEN["image"][::-1]]), 13)
    np.testing.assert_array_equal(ours[:, 0], GOLDEN["five"])
    assert ours.shape == (5, 2, 13, 13, 3)


def test_mirror_images_are_turned_left_to_right():
    images = GOLDEN["image"][None]
    np.testing.assert_array_equal(views.mirrored(images)[1, 0], np.fliplr(images[0]))
    np.testing.assert_array_equal(views.mirrored(images)[0], images)


def test_outputs_are_averaged_over_the_views_of_an_image():
    images = np.random.default_rng(0).uniform(size=(3, 6, 6, 3)).astype(np.float32)

    def function(view):
        return np.square(view[:, 0, 0])

    expected = (images[:, 0, 0] ** 2 + images[:, 0, -1] ** 2) / 2
    np.testing.assert_allclose(views.mean_output(function, views.mirrored(images)), expected, rtol=1e-6)


def test_crops_larger_than_the_image_are_refused():
    with pytest.raises(ValueError, match="22 pixels"):
        views.five_crops(GOLDEN["image"][None], 22)
