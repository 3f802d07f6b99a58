"""How the settings of a run decide what is kept of its images."""

import pytest

from finetune_jax import data as datasets
from finetune_jax.config import DataConfig, FinetuneConfig, validate
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


def test_stored_images_smaller_than_the_crop_are_refused():
    with pytest.raises(UserError, match="--stored_size=60 is smaller than the 64 pixels"):
        kept(64, augmentation="crop", stored_size=60)


def test_a_stored_size_without_crops_is_refused():
    with pytest.raises(UserError, match="--stored_size=72 is for --augmentation=crop"):
        validate(FinetuneConfig(augmentation="flip", stored_size=72))
