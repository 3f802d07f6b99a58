"""How the settings of a run decide what is kept of its images."""

import numpy as np
import pytest

from finetune_jax import data as datasets
from finetune_jax.config.checks import validate
from finetune_jax.config.settings import DataConfig, FinetuneConfig
from finetune_jax.data.cache import Arrays
from finetune_jax.data.decode import Preprocessing
from finetune_jax.errors import UserError

PHOTOS = "folder:photos"


def kept(size, **settings):
    """Preprocessing of training and of test images."""
    config = DataConfig(**{"dataset": PHOTOS, **settings})
    return tuple(datasets.preprocessing(config, size, train=train) for train in (True, False))


def test_images_are_stretched_and_test_images_lose_their_margins_as_in_autolr():
    assert kept(224) == (Preprocessing(224, 224), Preprocessing(224, 256))
    assert kept(32, dataset="digits") == (Preprocessing(32, 32), Preprocessing(32, 32))


def test_crops_come_from_larger_stored_images_and_test_images_have_their_scale():
    assert kept(224, augmentation="crop") == (Preprocessing(256, 256), Preprocessing(224, 256))
    decathlon = kept(64, augmentation="crop", stored_size=72)
    assert decathlon == (Preprocessing(72, 72), Preprocessing(64, 72))
    assert kept(28, dataset="digits", augmentation="crop") == (Preprocessing(32, 32), Preprocessing(28, 32))
    own = kept(64, augmentation="crop", stored_size=72, test_resize=64)
    assert own == (Preprocessing(72, 72), Preprocessing(64, 64))


def test_crops_in_proportion_come_from_larger_squares_and_test_images_keep_their_proportions():
    for name in ("random_crop", "random_resized_crop"):
        assert kept(224, augmentation=name) == (
            Preprocessing(341, 341),
            Preprocessing(224, 256, "shorter_side"),
        )
    own = kept(224, augmentation="random_crop", stored_size=256, test_resize=240)
    assert own == (Preprocessing(256, 256), Preprocessing(224, 240, "shorter_side"))


def test_the_resize_mode_can_be_chosen_for_any_augmentation():
    both = Preprocessing(224, 256, "shorter_side")
    assert kept(224, augmentation="flip", resize_mode="shorter_side") == (both, both)
    crop = kept(64, augmentation="crop", resize_mode="shorter_side", stored_size=72)
    assert crop == (Preprocessing(72, 72), Preprocessing(64, 73, "shorter_side"))
    stretched = kept(224, augmentation="random_crop", resize_mode="stretch", stored_size=260)
    assert stretched == (Preprocessing(260, 260), Preprocessing(224, 260))
    resized = kept(224, augmentation="random_resized_crop", resize_mode="stretch", stored_size=448)
    assert resized == (Preprocessing(448, 448), Preprocessing(224, 256))


@pytest.mark.parametrize(
    ("settings", "undone"),
    [
        ({"augmentation": "flip"}, False),
        ({"augmentation": "flip", "resize_mode": "shorter_side"}, False),
        ({"augmentation": "crop"}, False),
        ({"augmentation": "crop", "resize_mode": "shorter_side"}, True),
        ({"augmentation": "random_crop"}, True),
        ({"augmentation": "random_resized_crop"}, True),
        ({"augmentation": "random_resized_crop", "resize_mode": "stretch"}, False),
    ],
)
def test_the_stretch_is_undone_where_crops_are_taken_in_proportion(settings, undone):
    sizes = np.array([[30, 40], [20, 10]], np.int32)
    arrays = Arrays(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int32), np.arange(2), sizes)
    aspects = datasets.stretched_aspects(DataConfig(**settings), arrays)
    if undone:
        np.testing.assert_allclose(aspects, [4 / 3, 1 / 2], rtol=1e-6)
    else:
        assert aspects is None


def test_stored_images_smaller_than_the_crop_are_refused():
    with pytest.raises(UserError, match="--stored_size=60 is smaller than the 64 pixels"):
        kept(64, augmentation="crop", stored_size=60)


def test_a_stored_size_without_crops_is_refused():
    with pytest.raises(UserError, match="--stored_size=72 is for --augmentation=crop"):
        validate(FinetuneConfig(augmentation="flip", stored_size=72))


def test_colour_changes_outside_of_what_makes_sense_are_refused():
    for name, value in (("color_jitter", 1.5), ("hue_jitter", 0.6)):
        with pytest.raises(UserError, match=f"--{name}={value} is out of range"):
            validate(FinetuneConfig(augmentation="random_resized_crop", **{name: value}))
        with pytest.raises(UserError, match=f"--{name}=0.2 is for --augmentation=random_resized_crop"):
            validate(FinetuneConfig(augmentation="random_crop", **{name: 0.2}))


def test_the_shorter_side_of_crops_can_be_chosen():
    decathlon = kept(64, augmentation="crop", resize_mode="shorter_side", train_resize=72)
    assert decathlon == (Preprocessing(96, 96), Preprocessing(64, 72, "shorter_side"))
    assert datasets.shorter_side(DataConfig(train_resize=72), 64) == 72
    with pytest.raises(UserError, match="--train_resize=60 is smaller than the 64 pixels"):
        kept(64, augmentation="random_crop", train_resize=60)
    with pytest.raises(UserError, match="--train_resize=72 is a shorter side, and images are stretched"):
        validate(FinetuneConfig(augmentation="crop", train_resize=72))
    with pytest.raises(UserError, match="--train_resize=72 is for --augmentation=crop or random_crop"):
        validate(FinetuneConfig(augmentation="random_resized_crop", train_resize=72))
