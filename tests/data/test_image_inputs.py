"""What a predictor takes for an image, and what the message says about everything else."""

import io
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from encoded_images import encoded, exif_with_orientation, smooth_photo
from PIL import Image

from finetune_jax.data.decode import Decoding, UnreadableImage
from finetune_jax.data.image_inputs import one_by_one, pixels_of

PHOTO = smooth_photo(20, 30)
GREY = PHOTO[..., 0]


def pixels(images) -> list[np.ndarray]:
    return [pixels_of(image, Decoding()) for image in one_by_one(images)]


def test_one_image_may_come_in_any_form(tmp_path):
    data = encoded(Image.fromarray(PHOTO))
    (tmp_path / "photo.png").write_bytes(data)
    for image in (
        PHOTO,
        jnp.asarray(PHOTO),
        Image.fromarray(PHOTO),
        Image.open(io.BytesIO(data)),
        data,
        bytearray(data),
        io.BytesIO(data),
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
    ):
        (found,) = pixels(image)
        np.testing.assert_array_equal(found, PHOTO)
    with open(tmp_path / "photo.png", "rb") as file:
        np.testing.assert_array_equal(pixels(file)[0], PHOTO)


def test_several_images_may_come_in_any_iterable():
    for images in ([PHOTO, PHOTO[::-1]], np.stack([PHOTO, PHOTO[::-1]]), (x for x in (PHOTO, PHOTO[::-1]))):
        first, second = pixels(images)
        np.testing.assert_array_equal(first, PHOTO)
        np.testing.assert_array_equal(second, PHOTO[::-1])
    assert pixels([]) == []


def test_grey_becomes_rgb_and_transparency_white():
    expected = np.repeat(GREY[..., None], 3, axis=2)
    for grey in (
        GREY,
        GREY[..., None],
        Image.fromarray(GREY),
        GREY.astype(np.uint16) * 257,
        GREY[None, ..., None],
    ):
        np.testing.assert_array_equal(pixels(grey)[0], expected)
    rgba = np.dstack([PHOTO, np.where(np.arange(30) < 15, 0, 255)[None].repeat(20, 0)]).astype(np.uint8)
    for image in (rgba, Image.fromarray(rgba)):
        found = pixels(image)[0]
        assert (found[:, :15] == 255).all()
        np.testing.assert_array_equal(found[:, 15:], PHOTO[:, 15:])


def test_a_pillow_image_is_turned_as_its_file_would_be():
    data = encoded(Image.fromarray(PHOTO), "JPEG", exif=exif_with_orientation(6))
    np.testing.assert_array_equal(pixels(Image.open(io.BytesIO(data)))[0], pixels(data)[0])
    assert pixels(data)[0].shape == (30, 20, 3)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (
            PHOTO.astype(np.float32) / 255,
            ValueError,
            r"not float32 \[20, 30, 3\]; scale its values to 0 … 255",
        ),
        (PHOTO.transpose(2, 0, 1), ValueError, r"not uint8 \[3, 20, 30\]"),
        (np.zeros((2, 2, 2, 2, 2), np.uint8), ValueError, r"not uint8 \[2, 2, 2, 2, 2\]"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, "has no pixels"),
        (3, TypeError, "not int"),
        ([None], TypeError, "not NoneType"),
        (b"no image", UnreadableImage, "given as bytes: not a known image format"),
        (io.StringIO("text"), UnreadableImage, "mode 'rb'"),
        (Path("/nowhere/photo.png"), UnreadableImage, "No such file"),
        (Image.new("F", (3, 3)), UnreadableImage, "no known range"),
    ],
)
def test_what_is_no_image_is_refused_with_its_true_form(image, error, message):
    with pytest.raises(error, match=message):
        pixels(image)
