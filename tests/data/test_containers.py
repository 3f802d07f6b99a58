"""What stands around sound pixels (text, profiles, time stamps) never costs them, whatever it is."""

import io
import struct
import zlib

import numpy as np
import pytest
from encoded_images import encoded, exif_with_orientation, smooth_photo
from PIL import ExifTags, Image

from finetune_jax.data.containers import without_metadata
from finetune_jax.data.decode import UnreadableImage, decode_image

PHOTO = smooth_photo(20, 30)
LARGE = b"x" * 2**21


def chunk(kind: bytes, content: bytes, wrong: int = 0) -> bytes:
    check = zlib.crc32(kind + content) ^ wrong
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"a\0\0" + zlib.compress(LARGE)),
        chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(LARGE)),
        chunk(b"iCCP", b"p\0\0" + zlib.compress(LARGE)),
        chunk(b"iCCP", b"p\0\7" + zlib.compress(b"another method")),
        b"".join(chunk(b"zTXt", b"a%d\0\0" % i + zlib.compress(LARGE[: 2**20])) for i in range(66)),
        chunk(b"tEXt", b"a\0b", wrong=1),
        chunk(b"iCCP", b"p\0\0" + zlib.compress(b"q" * 200), wrong=1),
        chunk(b"tIME", b"\0", wrong=7),
        chunk(b"gAMA", b"\0"),
        chunk(b"cHRM", b"short"),
        chunk(b"pHYs", b""),
        chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(LARGE)),
        chunk(b"zTXt", b"Raw profile type exif\0\0no zlib stream"),
    ],
)
def test_the_pixels_of_a_png_are_read_behind_any_metadata(extra):
    plain = encoded(Image.fromarray(PHOTO))
    np.testing.assert_array_equal(decode_image(plain[:33] + extra + plain[33:], "x"), PHOTO)


def test_the_orientation_is_kept_beside_metadata_that_is_left_out():
    plain = encoded(Image.fromarray(PHOTO), exif=exif_with_orientation(6))
    damaged = plain[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(LARGE)) + plain[33:]
    np.testing.assert_array_equal(decode_image(damaged, "x"), decode_image(plain, "x"))
    assert decode_image(damaged, "x").shape == (30, 20, 3)


@pytest.mark.parametrize("kind", [b"IDAT", b"PLTE", b"tRNS"])
def test_damage_of_the_pixels_themselves_stays_an_error(kind):
    data = bytearray(encoded(Image.fromarray(PHOTO).quantize(16), transparency=2))
    place = data.index(kind) + 6
    data[place] ^= 255
    with pytest.raises(UnreadableImage):
        decode_image(bytes(data), "x")


def test_a_jpeg_keeps_what_its_colours_and_its_orientation_need():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    data = encoded(Image.fromarray(PHOTO), "JPEG", exif=exif, icc_profile=b"q" * 5000, comment=b"c" * 300)
    shorter = without_metadata(data)
    assert len(shorter) < len(data) - 5000
    with Image.open(io.BytesIO(shorter)) as image:
        assert image.getexif()[ExifTags.Base.Orientation] == 3
        assert "icc_profile" not in image.info
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1\0\0", b"GIF89a"]
)
def test_what_is_cut_short_or_of_another_kind_gives_nothing_to_leave_out(data):
    shorter = without_metadata(data)
    assert shorter is None or len(shorter) < len(data)
