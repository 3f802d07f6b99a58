"""Decoding and preprocessing: any image a user may have becomes upright RGB, or one clear error."""

import io

import numpy as np
import pytest
from encoded_images import encoded, exif_with_orientation, smooth_photo
from PIL import Image, ImageOps

from finetune_jax.data import decode, formats, pixels
from finetune_jax.data.decode import Decoding, Preprocessing, UnreadableImage, decode_image, preprocess


@pytest.fixture
def pillow_only(monkeypatch):
    monkeypatch.setattr(decode, "_decode_jpeg", lambda data: None)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("shape", [(64, 96), (33, 17), (1, 1)])
def test_the_fast_jpeg_decoder_gives_the_pixels_of_pillow(subsampling, progressive, shape):
    data = encoded(
        Image.fromarray(smooth_photo(*shape)), "JPEG", subsampling=subsampling, progressive=progressive
    )
    fast = decode_image(data, "x.jpg")
    assert decode._decode_jpeg(data) is not None
    np.testing.assert_array_equal(fast, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_undone_in_both_decoders(orientation, kind):
    data = encoded(Image.fromarray(smooth_photo(24, 40)), kind, exif=exif_with_orientation(orientation))
    # The TIFF plugin of Pillow turns the image itself; the oracle must not depend on who does it.
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert expected.shape[:2] == ((24, 40) if orientation <= 4 else (40, 24))
    np.testing.assert_array_equal(decode_image(data, "x"), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_does_not_cost_the_image():
    pixels = smooth_photo(8, 8)
    data = encoded(Image.fromarray(pixels), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode_image(data, "x"), pixels)


def test_a_jpeg_that_only_pillow_accepts_is_read(pillow_only):
    data = encoded(Image.fromarray(smooth_photo(20, 30)), "JPEG", subsampling=0)
    assert decode_image(data, "x").shape == (20, 30, 3)


def test_grey_and_palette_and_one_bit_become_rgb():
    grey = Image.fromarray(smooth_photo(6, 7)[:, :, 0])
    for image in (grey, grey.convert("P"), grey.convert("1"), grey.convert("LA")):
        expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(decode_image(encoded(image), "x"), expected)


def test_grey_and_cmyk_jpegs_become_rgb():
    photo = Image.fromarray(smooth_photo(16, 16))
    for mode in ("L", "CMYK"):
        data = encoded(photo.convert(mode), "JPEG", quality=95)
        result = decode_image(data, "x")
        np.testing.assert_array_equal(result, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        reference = np.asarray(photo.convert(mode).convert("RGB")).astype(int)
        assert np.abs(result - reference).mean() < 12  # JPEG loss only: inverted colours would give about 100


def test_transparent_pixels_are_white_whatever_colour_they_hide():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, 1] = (10, 20, 30, 255)
    rgba[0, 2] = (0, 0, 0, 51)  # a fifth of black on white
    expected = [[[255, 255, 255], [10, 20, 30], [204, 204, 204]]]
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(rgba)), "x"), expected)


def test_transparent_palette_entries_are_white():
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 200, 100, 50])
    image.putdata([0, 1])
    data = encoded(image, "PNG", transparency=0)
    np.testing.assert_array_equal(decode_image(data, "x"), [[[255, 255, 255], [200, 100, 50]]])


def test_sixteen_bit_grey_is_scaled_not_clipped():
    wide = np.array([[0, 257, 200 * 257 + 100, 65535]], np.uint16)
    result = decode_image(encoded(Image.fromarray(wide)), "x")
    np.testing.assert_array_equal(result, np.repeat([[[0], [1], [200], [255]]], 3, axis=2))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_without_a_known_range_are_refused(dtype):
    data = encoded(Image.fromarray(np.full((4, 4), 70_000, dtype)), "TIFF")
    with pytest.raises(UnreadableImage, match="no known range"):
        decode_image(data, "x")


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(data, "x"), np.broadcast_to([255, 0, 0], (4, 5, 3)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_a_truncated_image_is_an_error_with_name_and_reason(kind):
    data = encoded(Image.fromarray(smooth_photo(64, 64)), kind)
    with pytest.raises(UnreadableImage) as caught:
        decode_image(data[: len(data) // 2], "cats/7.jpg")
    assert caught.value.name == "cats/7.jpg"
    assert caught.value.reason
    assert str(caught.value) == f"cannot read the image cats/7.jpg: {caught.value.reason}"


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty file"), (b"<html>not found</html>", "not a known image format")],
)
def test_what_is_no_image_is_said_to_be_none(data, reason):
    with pytest.raises(UnreadableImage) as caught:
        decode_image(data, "x.jpg")
    assert caught.value.reason == reason


def test_postscript_with_an_image_suffix_is_not_run():
    with pytest.raises(UnreadableImage, match="not a known image format"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "x.jpg")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_an_image_above_the_limit_is_refused_from_its_header_with_the_flag_to_give(kind):
    with pytest.raises(UnreadableImage, match=r"30 × 30 pixels .* --max_pixels=\d+$"):
        decode_image(encoded(Image.new("RGB", (30, 30)), kind), "x", Decoding(max_pixels=100))


def test_of_jpegs_the_progressive_ones_alone_are_refused_above_the_limit():
    photo = Image.fromarray(smooth_photo(30, 30))
    assert decode_image(encoded(photo, "JPEG"), "x", Decoding(max_pixels=100)).shape == (30, 30, 3)
    with pytest.raises(UnreadableImage, match="--max_pixels=1350"):
        decode_image(encoded(photo, "JPEG", progressive=True), "x", Decoding(max_pixels=100))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_very_large_images_come_at_a_reduced_scale(kind, monkeypatch):
    monkeypatch.setattr(pixels, "FULL_PIXELS", 32 * 48)
    photo = smooth_photo(128, 192)
    small = decode_image(encoded(Image.fromarray(photo), kind), "x")
    assert small.shape == (32, 48, 3)
    averages = photo.reshape(32, 4, 48, 4, 3).mean((1, 3))
    assert np.abs(small - averages).mean() < 3


def test_strips_of_rows_give_the_pixels_of_the_whole(monkeypatch):
    palette = Image.fromarray(smooth_photo(37, 23)).quantize(17)
    for image, options in (
        (palette, {"transparency": 3}),
        (Image.fromarray(smooth_photo(37, 23)[..., 0].astype(np.uint16) * 200), {}),
        (Image.fromarray(np.dstack([smooth_photo(37, 23), smooth_photo(37, 23)[..., :1]])), {}),
    ):
        data = encoded(image, **options)
        whole = decode_image(data, "x")
        monkeypatch.setattr(pixels, "_STRIP_PIXELS", 100)
        np.testing.assert_array_equal(decode_image(data, "x"), whole)
        monkeypatch.undo()


def test_a_missing_file_is_an_unreadable_image(tmp_path):
    with pytest.raises(UnreadableImage, match=r"gone\.png: No such file"):
        decode.read_image(tmp_path / "gone.png")


def bicubic_by_hand(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bicubic resampling, a = -0.5, in float64: the definition, one axis after the other."""

    def kernel(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = 1.5 * x**3 - 2.5 * x**2 + 1.0
        far = -0.5 * (x**3 - 5.0 * x**2 + 8.0 * x - 4.0)
        return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))

    def matrix(size: int, target: int) -> np.ndarray:
        scale = size / target
        centre = (np.arange(target) + 0.5) * scale
        weights = kernel((np.arange(size) + 0.5 - centre[:, None]) / max(scale, 1.0))
        return weights / weights.sum(axis=1, keepdims=True)

    rows = np.einsum("ab,bcd->acd", matrix(image.shape[0], height), image.astype(np.float64))
    return np.clip(np.einsum("ab,cbd->cad", matrix(image.shape[1], width), rows), 0, 255)


@pytest.mark.parametrize("shape", [(60, 80), (20, 24), (97, 31)])
def test_stretching_is_antialiased_bicubic_and_a_central_crop(shape):
    image = smooth_photo(*shape)
    result = preprocess(image, Preprocessing(image_size=28, resize=32, mode="stretch"))
    expected = bicubic_by_hand(image, 32, 32)[2:30, 2:30]
    assert result.shape == (28, 28, 3)
    assert result.dtype == np.uint8
    assert np.abs(result - expected).max() < 3  # Pillow rounds to bytes between the two axes


@pytest.mark.parametrize(
    ("shape", "resized", "corner"),
    [((60, 90), (32, 48), (2, 10)), ((90, 60), (48, 32), (10, 2)), ((50, 75), (32, 48), (2, 10))],
)
def test_the_shorter_side_is_resized_and_the_aspect_ratio_kept(shape, resized, corner):
    image = smooth_photo(*shape)
    result = preprocess(image, Preprocessing(image_size=28, resize=32, mode="shorter_side"))
    top, left = corner
    expected = bicubic_by_hand(image, *resized)[top : top + 28, left : left + 28]
    assert np.abs(result - expected).max() < 3


def test_an_image_of_the_right_size_is_left_alone():
    image = smooth_photo(16, 16)
    np.testing.assert_array_equal(preprocess(image, Preprocessing(16, 16)), image)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40_000), (40_000, 1), (3, 2)])
@pytest.mark.parametrize("mode", ["stretch", "shorter_side"])
def test_extreme_shapes_give_an_input_without_gigabytes(shape, mode, monkeypatch):
    resize = Image.Image.resize

    def small_resize(image, size, *arguments):
        assert max(size) <= 16 * 64  # 40,000 times as long as wide would be half a gigabyte here
        return resize(image, size, *arguments)

    monkeypatch.setattr(Image.Image, "resize", small_resize)
    image = np.full((*shape, 3), 77, np.uint8)
    result = preprocess(image, Preprocessing(image_size=48, resize=64, mode=mode))
    np.testing.assert_array_equal(result, np.full((48, 48, 3), 77))


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)])
def test_other_arrays_than_rgb_bytes_are_programming_errors(image):
    with pytest.raises(ValueError, match="must be uint8"):
        preprocess(image, Preprocessing(8, 8))


@pytest.mark.parametrize("arguments", [{"image_size": 9, "resize": 8}, {"image_size": 0, "resize": 8}])
def test_a_crop_larger_than_the_image_is_refused(arguments):
    with pytest.raises(ValueError, match="image_size"):
        Preprocessing(**arguments)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="squeeze"):
        Preprocessing(8, 8, mode="squeeze")


def test_photographs_of_telephones_are_read_as_their_maintained_plugin_reads_them(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    assert {".heic", ".heif", ".hif"} <= formats.suffixes()
    image = Image.fromarray(smooth_photo(48, 64))
    file = tmp_path / "1.heic"
    pillow_heif.from_pillow(image).save(file, quality=95)
    expected = np.asarray(pillow_heif.read_heif(file).to_pillow().convert("RGB"))
    decoded = decode_image(file.read_bytes(), "1.heic")
    np.testing.assert_array_equal(decoded, expected)
    assert np.abs(decoded.astype(int) - np.asarray(image)).mean() < 8  # it loses colours of single pixels
