"""Grey images, 16 bits, bands and pages: from files to what the network sees."""

import io

import numpy as np
import pytest
from PIL import Image

from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data import cache, decode, folder, image_inputs, planes
from finetune_jax.data.decode import Decoding, Preprocessing, UnreadableImage, preprocess
from finetune_jax.errors import UserError

RNG = np.random.default_rng(0)
PAGES = RNG.integers(0, 256, (4, 9, 12)).astype(np.uint8)


def tiff(pages, mode=None) -> bytes:
    file = io.BytesIO()
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(file, "TIFF", save_all=True, append_images=others)
    return file.getvalue()


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def test_grey_is_what_pillow_makes_of_the_colours():
    image = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    found = preprocess(image, Preprocessing(8, 10, channels=1))
    expected = Image.fromarray(image).convert("L").resize((10, 10), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(found[..., 0], np.asarray(expected)[1:9, 1:9])


def test_channels_that_are_no_colours_are_resized_each_for_itself():
    """Pillow would multiply the first three by the fourth."""
    image = RNG.integers(0, 256, (20, 30, 4)).astype(np.uint8)
    found = preprocess(image, Preprocessing(8, 10, "shorter_side", channels=4))
    assert found.shape == (8, 8, 4)
    for channel in range(4):
        alone = preprocess(
            image[..., channel : channel + 1], Preprocessing(8, 10, "shorter_side", channels=1)
        )
        np.testing.assert_array_equal(found[..., channel], alone[..., 0])
    with pytest.raises(ValueError, match="has 4 channels, and --channels=5 are wanted"):
        preprocess(image, Preprocessing(8, 10, channels=5))


def test_percentiles_are_black_and_white():
    wide = RNG.integers(0, 4096, (30, 30)).astype(np.uint16)
    found = decode.decode_image(encoded(wide), "", Decoding(percentiles=(10, 90)))
    low, high = np.percentile(wide, [10, 90])
    expected = np.rint(np.clip((wide - low) / (high - low), 0, 1) * 255)
    np.testing.assert_allclose(found, np.repeat(expected[..., None], 3, 2), atol=1)
    floats = decode.decode_image(encoded(wide.astype(np.float32), "TIFF"), "", Decoding(percentiles=(10, 90)))
    np.testing.assert_array_equal(floats, found)
    with pytest.raises(UnreadableImage, match="no known range"):
        decode.decode_image(encoded(wide.astype(np.float32), "TIFF"), "")


def test_pages_are_channels_or_images():
    content = tiff(PAGES)
    np.testing.assert_array_equal(
        decode.decode_image(content, "", Decoding(channels=4, pages="channels")), PAGES.transpose(1, 2, 0)
    )
    assert planes.pages_in(content, "") == 4
    for page in range(4):
        found = decode.decode_image(content, "", Decoding(pages="images"), page)
        np.testing.assert_array_equal(found, np.repeat(PAGES[page][..., None], 3, 2))
    with pytest.raises(UnreadableImage, match="has 4 pages, and --channels=5 are wanted"):
        decode.decode_image(content, "", Decoding(channels=5, pages="channels"))
    np.testing.assert_array_equal(decode.decode_image(content, "")[..., 0], PAGES[0])


def test_pages_of_a_file_are_a_group_with_names_and_digests_of_their_own(tmp_path):
    for number, kind in enumerate(("a", "b")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "stack.tif").write_bytes(tiff(PAGES[2 * number : 2 * number + 2]))
        (tmp_path / kind / "plain.png").write_bytes(encoded(PAGES[number]))
    source = folder.read(str(tmp_path), decoding=Decoding(pages="images"))
    train = source.splits["train"]
    assert [name.removeprefix(source.root) for name in train.names] == [
        "a/plain.png", "a/stack.tif#1", "a/stack.tif#2", "b/plain.png", "b/stack.tif#1", "b/stack.tif#2",
    ]  # fmt: skip
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(train.read(5)[..., 0], PAGES[3])
    assert len(np.unique(train.digests, axis=0)) == 6
    np.testing.assert_array_equal(train.groups[1], train.groups[2])
    assert len(np.unique(train.groups, axis=0)) == 4


def test_bands_that_pillow_does_not_know_are_read_by_tifffile():
    tifffile = pytest.importorskip("tifffile")
    bands = RNG.integers(0, 4096, (9, 12, 13)).astype(np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, bands, photometric="minisblack", planarconfig="contig")
    found = decode.decode_image(file.getvalue(), "", Decoding(channels=13, bits=12))
    np.testing.assert_allclose(found, bands / 4095 * 255, atol=0.5)
    with pytest.raises(UnreadableImage, match="has 13 channels, and --channels=4 are wanted"):
        decode.decode_image(file.getvalue(), "", Decoding(channels=4))


def test_what_is_no_tiff_of_bands_says_what_it_has():
    with pytest.raises(UnreadableImage, match="has 3 channels, and --channels=5 are wanted"):
        decode.decode_image(
            encoded(RNG.integers(0, 256, (4, 4, 3)).astype(np.uint8)), "", Decoding(channels=5)
        )
    with pytest.raises(UnreadableImage, match="not a known image format"):
        decode.decode_image(b"nothing", "", Decoding(channels=5))
    with pytest.raises(ValueError, match=r"an array \[h, w, 5\]"):
        image_inputs.pixels_of(np.zeros((4, 4, 3), np.uint8), Decoding(channels=5))


def test_the_cache_keeps_any_number_of_channels_and_its_old_names(tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "b").mkdir()
    for name in ("a", "b"):
        (tmp_path / "photos" / name / "x.tif").write_bytes(tiff(PAGES))
    decoding = Decoding(channels=4, pages="channels")
    train = folder.read(str(tmp_path / "photos"), decoding=decoding).splits["train"]
    arrays = cache.materialise(train, Preprocessing(6, 6, channels=4), cache_dir=tmp_path / "cache")
    again = cache.materialise(train, Preprocessing(6, 6, channels=4), cache_dir=tmp_path / "cache")
    assert arrays.images.shape == (2, 6, 6, 4)
    np.testing.assert_array_equal(arrays.images, again.images)
    usual = {"image_size": 6, "resize": 6, "mode": "stretch", "bits": 16}
    assert Preprocessing(6, 6).to_json() == usual
    of_channels = Preprocessing(6, 6, channels=4, percentiles=(1, 99), pages="channels")
    assert Preprocessing(**of_channels.to_json()) == of_channels


def test_settings_that_contradict_the_channels_are_refused():
    for settings, message in (
        ({"channels": 14}, "a whole number from 1 to 13"),
        ({"percentiles": (99, 1)}, "the lower one first"),
        ({"channels": 1, "augmentation": "trivial_augment"}, "changes colours, which --channels=1 have not"),
        ({"channels": 4, "augmentation": "random_resized_crop"}, "give --color_jitter=0"),
        ({"channels": 1, "pages": "channels"}, "--pages=channels needs --channels"),
    ):
        with pytest.raises(UserError, match=message):
            validate(FinetuneConfig(**settings))
    validate(FinetuneConfig(channels=4, augmentation="random_resized_crop", color_jitter=0.0))
