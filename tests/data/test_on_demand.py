"""Images that are decoded on demand: the same pixels in the same batches as from the cache."""

import jax
import numpy as np
import pytest
from photos import write_photos
from PIL import ExifTags, Image

from finetune_jax import data as datasets
from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.decode import UnreadableImage
from finetune_jax.data.feeds import create_feed
from finetune_jax.data.order import training_order
from finetune_jax.data.statistics import channel_statistics
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError


@pytest.fixture
def config(tmp_path):
    root = write_photos(tmp_path / "photos", per_class=8)
    upright = Image.open(root / "leaf" / "00.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upright.resize((30, 20)).save(root / "leaf" / "turned.jpg", exif=exif)
    return FinetuneConfig(
        dataset=f"folder:{root}",
        cache_dir=str(tmp_path / "cache"),
        augmentation="random_crop",
        test_fraction=0.25,
    )


def streamed(config):
    return FinetuneConfig(**{**vars(config), "decode": "stream"})


def test_batches_and_sizes_are_those_of_the_cache_and_nothing_is_written(config, tmp_path):
    source = datasets.load_source(config, silent=True)
    demanded = datasets.materialise(streamed(config), source, 16, silent=True)
    assert not [path for path in (tmp_path / "cache").glob("*") if path.name != "index"]
    cached = datasets.materialise(config, source, 16, silent=True)
    replicas = Replicas(tuple(jax.devices()[:2]))
    for split in ("train", "test"):
        order = training_order(len(cached[split].labels), 4, seed=1, epoch=0)
        feeds = [
            create_feed(arrays[split], replicas, resident=False, steps_per_dispatch=1)
            for arrays in (demanded, cached)
        ]
        ours, expected = ([np.asarray(batch) for batch in feed.batches(order)] for feed in feeds)
        np.testing.assert_array_equal(ours, expected)
        np.testing.assert_array_equal(demanded[split].labels, cached[split].labels)
    np.testing.assert_array_equal(demanded["train"].aspects, cached["train"].aspects)
    assert channel_statistics(demanded["train"].images) == channel_statistics(cached["train"].images)
    assert not demanded["train"].images.nbytes <= config.device_data_gb * 1e9


def test_an_image_that_cannot_be_read_is_named_when_its_turn_comes(config, tmp_path):
    (tmp_path / "photos" / "sky" / "broken.png").write_bytes(b"no image")
    source = datasets.load_source(config, silent=True)
    (split,) = [
        s for s, examples in source.splits.items() if any("broken" in name for name in examples.names)
    ]
    arrays = datasets.materialise_split(
        streamed(config),
        source.splits[split],
        datasets.preprocessing(config, 16, train=False),
        silent=True,
        title="",
    )
    feed = create_feed(arrays, Replicas(tuple(jax.devices()[:1])), resident=False, steps_per_dispatch=1)
    with pytest.raises(UnreadableImage, match=r"broken\.png"):
        list(feed.batches(np.arange(len(arrays.labels))[:, None]))
    with pytest.raises(UserError, match="--skip_unreadable contradicts --decode=stream"):
        validate(FinetuneConfig(decode="stream", skip_unreadable=True))
