"""From an image of any mode, as Pillow decodes it, to uint8 RGB ``[h, w, 3]``, in little memory.

Transparency is put on white. An image is converted in strips of rows, so that a large one takes no more than its
own pixels and the result.
"""

import math

import numpy as np
from PIL import Image

from finetune_jax.data.containers import png_header

FULL_PIXELS = 2**26
"""Larger images are averaged over squares of pixels, to at most this many."""

FULL_BITS = 16

_STRIP_PIXELS = 2**21
_WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_BITS_PER_SAMPLE = 258  # tag of TIFF


def reduction(width: int, height: int) -> int:
    """Side of the squares over which an image is averaged: 1 up to :data:`FULL_PIXELS`."""
    return max(1, math.ceil(math.sqrt(width * height / FULL_PIXELS)))


def to_rgb(image: Image.Image, data: bytes, bits: int, percentiles: tuple[int, ...] = ()) -> np.ndarray:
    """A loaded image as uint8 ``[h, w, 3]``, averaged over squares where it is very large.

    Args:
        image: loaded.
        data: its file, whose header tells what Pillow does not.
        bits: of a sample of grey images with 16 bits: ``2**bits - 1`` is white.
        percentiles: two, of the values of a grey image with more than eight bits that become black and white, instead
            of ``bits``; empty for none.

    Raises:
        ValueError: its values have no known range.
    """
    if percentiles and image.mode in (*_WIDE_GREY, "F"):
        return np.repeat(stretched(np.asarray(image), percentiles)[..., None], 3, axis=2)
    check_range(image, data, bits)
    correct_transparency(image, data)
    tags = getattr(image, "tag_v2", {})
    if image.mode in _WIDE_GREY and tags.get(_BITS_PER_SAMPLE, (FULL_BITS,))[0] < FULL_BITS:
        bits = min(bits, tags[_BITS_PER_SAMPLE][0])
    side = reduction(*image.size)
    width, height = image.size
    pixels = np.empty((math.ceil(height / side), math.ceil(width / side), 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width // side) * side
    for top in range(0, height, rows):
        whole = top == 0 and rows >= height
        part = image if whole else image.crop((0, top, width, min(top + rows, height)))
        strip = _strip(part, bits)
        if side > 1:
            strip = np.asarray(Image.fromarray(strip).reduce(side))
        pixels[top // side : top // side + len(strip)] = strip
    return pixels


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """An image with so many channels: colour becomes grey by ITU-R 601, grey becomes equal colours.

    Args:
        image: uint8 ``[h, w, C]``.
        channels: wanted.

    Returns:
        uint8 ``[h, w, channels]``.

    Raises:
        ValueError: they cannot be made of those that there are.

    >>> with_channels(np.array([[[255, 0, 0]]], np.uint8), 1).tolist()
    [[[76]]]
    """
    image_channels = image.shape[2]
    if image_channels == channels:
        return image
    if channels == 1 and image_channels in (3, 4):
        return np.asarray(Image.fromarray(np.ascontiguousarray(image[..., :3])).convert("L"))[..., None]
    if image_channels == 1 and channels == 3:
        return np.repeat(image, 3, axis=2)
    raise ValueError(f"it has {image_channels} channels, and --channels={channels} are wanted")


def shown(images: np.ndarray) -> np.ndarray:
    """Images for people, uint8 ``[…, 3]``: grey where there is one channel or two, else the first three.

    Args:
        images: uint8 ``[…, C]``.
    """
    channels = images.shape[-1]
    if channels == 3:
        return images
    return np.repeat(images[..., :1], 3, axis=-1) if channels < 3 else images[..., :3]


def bits_used(image: Image.Image, data: bytes) -> int | None:
    """Bits that the largest value of a loaded image with 16 bits per sample needs; None for other images."""
    if image.mode in _WIDE_GREY:
        _, high = image.getextrema()
        return max(int(high), 1).bit_length()  # type: ignore[arg-type]
    if not _is_wide_colour(image, data):
        return None
    extrema = image.convert("RGB").getextrema()  # of the upper bytes
    return 8 + max(int(high).bit_length() for _, high in extrema)  # type: ignore[misc]


def check_range(image: Image.Image, data: bytes, bits: int) -> None:
    """Refuse an image whose values cannot be brought to eight bits.

    Raises:
        ValueError: says why.
    """
    if image.mode == "F":
        raise ValueError("floating-point values have no known range; save it with 8 or 16 bits")
    if bits < FULL_BITS and _is_wide_colour(image, data):
        raise ValueError(
            f"--bits={bits} is for grey images, and this one has 16 bits per colour; save it with 8"
        )


def correct_transparency(image: Image.Image, data: bytes) -> None:
    """Bring the transparent colour of a PNG, which counts in samples of the file, to the values of Pillow's mode."""
    header, colour = png_header(data), image.info.get("transparency")
    if header is None or colour is None:
        return
    depth, kind = header
    if kind == 0 and depth in (2, 4):
        most = 2**depth - 1
        image.info["transparency"] = (colour & most) * (255 // most)
    elif kind == 0 and depth == 8:
        image.info["transparency"] = colour & 255
    elif kind == 2 and isinstance(colour, tuple):
        # Of 16 bits, Pillow keeps the upper eight.
        image.info["transparency"] = tuple(value >> 8 if depth == 16 else value & 255 for value in colour)


def stretched(values: np.ndarray, percentiles: tuple[int, ...]) -> np.ndarray:
    """Values as grey levels of eight bits, two percentiles of them being black and white.

    Args:
        values: ``[h, w]``, of any type; what is no number is black.
        percentiles: the lower and the upper one.

    >>> stretched(np.array([[100, 200], [300, 1000]], np.uint16), (0, 100)).tolist()
    [[0, 28], [57, 255]]
    """
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, np.uint8)
    low, high = np.percentile(values[finite].astype(np.float64), percentiles)
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    scaled = (np.where(finite, values, low).astype(np.float64) - low) * (255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _strip(image: Image.Image, bits: int) -> np.ndarray:
    if image.mode in _WIDE_GREY:
        return _wide_grey(image, bits)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _wide_grey(image: Image.Image, bits: int) -> np.ndarray:
    wide = np.asarray(image).astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ValueError("32-bit grey values have no known range; save it with 8 or 16 bits")
    if bits == FULL_BITS:
        grey = (wide + 128) // 257
    else:
        white = 2**bits - 1
        grey = (np.minimum(wide, white) * 255 + white // 2) // white
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey = np.where(wide == transparent, 255, grey)
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def _is_wide_colour(image: Image.Image, data: bytes) -> bool:
    header = png_header(data)
    if header is not None:
        return header[0] == 16 and header[1] != 0
    samples = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
    return len(samples) > 1 and max(samples) == 16
