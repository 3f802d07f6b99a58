"""Transparent colours and values of few bits: what Pillow does not know of a file, from its header."""

import struct
import zlib

import numpy as np
import pytest
from encoded_images import encoded
from PIL import Image

from finetune_jax.data.decode import Decoding, UnreadableImage, bits_used, decode_image


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples: np.ndarray, depth: int, *, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG of grey ``[h, w]`` or RGB ``[h, w, 3]`` samples, written by hand from the specification."""
    height, width = samples.shape[:2]
    colour = 0 if samples.ndim == 2 else 2
    rows = samples.reshape(height, -1)
    if depth == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    elif depth == 8:
        packed = [row.astype(np.uint8).tobytes() for row in rows]
    else:
        bits = (rows[:, :, None] >> np.arange(depth)[::-1]) & 1
        packed = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in bits]
    body = zlib.compress(b"".join(b"\0" + row for row in packed))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    extra = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_is_white_in_every_bit_depth(depth):
    most = 2**depth - 1
    samples = np.arange(12).reshape(3, 4) * (most // 11 if depth > 3 else 1) & most
    transparent = int(samples[1, 1])
    expected = np.floor(samples * 255 / most + 0.5)
    expected[samples == transparent] = 255
    result = decode_image(png(samples, depth, transparent=(transparent,)), "x")
    np.testing.assert_array_equal(result, np.repeat(expected[..., None], 3, axis=2))
    plain = decode_image(png(samples, depth), "x")
    assert (plain[samples == transparent] != 255).any() or transparent == most


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_is_white_in_both_bit_depths(depth):
    samples = np.random.default_rng(0).integers(0, 2**depth, (4, 5, 3))
    transparent = tuple(map(int, samples[2, 3]))
    expected = samples >> (depth - 8)
    expected[2, 3] = 255
    np.testing.assert_array_equal(decode_image(png(samples, depth, transparent=transparent), "x"), expected)


def test_grey_values_of_twelve_bits_fill_the_range_if_asked_to():
    samples = np.array([[0, 1, 2047, 4095]])
    assert decode_image(png(samples, 16), "x")[0, :, 0].max() == 16
    result = decode_image(png(samples, 16), "x", Decoding(bits=12))
    np.testing.assert_array_equal(result[0, :, 0], np.rint(samples[0] * 255 / 4095))
    # Eight bits of an eight-bit image are what they are.
    grey = Image.fromarray(np.array([[0, 100, 200]], np.uint8))
    np.testing.assert_array_equal(decode_image(encoded(grey), "x", Decoding(bits=12))[0, :, 0], [0, 100, 200])


def test_bits_used_are_those_of_the_largest_value_of_wide_images():
    assert bits_used(png(np.array([[0, 4095]]), 16), "x") == 12
    assert bits_used(png(np.array([[0, 4096]]), 16), "x") == 13
    assert bits_used(png(np.array([[0, 200]]), 8), "x") is None
    colours = np.zeros((1, 2, 3), int)
    colours[0, 1, 2] = 1023
    assert bits_used(png(colours, 16), "x") == 10


def test_sixteen_bits_per_colour_are_not_scaled_in_silence():
    colours = png(np.full((2, 2, 3), 1000), 16)
    assert decode_image(colours, "x").max() == 1000 >> 8
    with pytest.raises(UnreadableImage, match="--bits=12 is for grey images"):
        decode_image(colours, "x", Decoding(bits=12))
