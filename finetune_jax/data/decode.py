"""From encoded image to network input, on the host: uint8 RGB ``[h, w, 3]`` throughout."""

import dataclasses
import os
from typing import Any, Literal

import numpy as np
import simplejpeg
from PIL import Image

from finetune_jax.data import opening, orientation, pixels, planes
from finetune_jax.data.opening import MAX_CHANNELS as MAX_CHANNELS
from finetune_jax.data.opening import MAX_PIXELS as MAX_PIXELS
from finetune_jax.data.opening import Decoding as Decoding
from finetune_jax.data.opening import UnreadableImage as UnreadableImage
from finetune_jax.data.regular_file import read_regular
from finetune_jax.errors import readable

# Memory that decoding takes beside the pixels themselves, in pixels: libwebp and libavif hold a copy, progressive
# JPEGs their coefficients.
_COSTS = {"WEBP": 2.0, "AVIF": 2.0, "HEIF": 2.0}
_PROGRESSIVE_COST = 1.5
_LONGEST_ASPECT = 16


def read_image(
    path: str | os.PathLike[str],
    name: str | None = None,
    decoding: Decoding | None = None,
    page: int = 0,
) -> np.ndarray:
    """Decodes an image file.

    Args:
      path: Of a regular file.
      name: For the error; the path unless given.
      decoding: See there.
      page: Of a TIFF file, from 0.

    Returns:
      uint8 ``[h, w, 3]``, see `decode_image`.

    Raises:
      UnreadableImage: Also where the file cannot be opened.
    """
    name = readable(os.fspath(path), 1000) if name is None else name
    try:
        data = read_regular(path)
    except OSError as error:
        raise UnreadableImage(name, error.strerror or str(error)) from error
    except ValueError as error:  # a null byte in the name
        raise UnreadableImage(name, str(error)) from error
    return decode_image(data, name, decoding, page)


def decode_image(data: bytes, name: str, decoding: Decoding | None = None, page: int = 0) -> np.ndarray:
    """Decodes a JPEG, PNG, GIF, BMP, WebP, TIFF or PPM image (AVIF and HEIF where decoders are installed) to RGB.

    The first frame of an animation counts. Transparency is put on white. 16-bit grey is scaled to 8 bits.
    Colour and grey JPEGs take a faster way with the same pixels. Images of more than `pixels.FULL_PIXELS` come
    at a reduced scale.

    Args:
      data: The encoded image.
      name: For the error.
      decoding: See there.
      page: Of a TIFF file, from 0.

    Returns:
      uint8 ``[h, w, 3]``, the EXIF orientation applied; ``[h, w, C]`` where `Decoding.in_planes`.

    Raises:
      UnreadableImage: With the reason.
    """
    known = decoding or Decoding()
    if known.in_planes:
        return planes.decode_image(data, name, known)
    if page:

        def of_page(image: Image.Image, file: bytes) -> np.ndarray:
            image.seek(page)
            _check_size(image, known.max_pixels, False)
            image.load()
            return pixels.to_rgb(image, b"", known.bits, known.percentiles)

        return opening.opened(data, name, of_page)
    return opening.opened(data, name, lambda image, file: _pixels(image, file, known))


def from_pillow(image: Image.Image, decoding: Decoding | None = None) -> np.ndarray:
    """A Pillow image of any mode as `decode_image` gives it.

    Args:
      image: Perhaps not loaded yet.
      decoding: See there.

    Returns:
      uint8 ``[h, w, 3]``, the EXIF orientation applied.

    Raises:
      UnreadableImage: Its file is damaged, or its values have no known range.
    """
    known = decoding or Decoding()
    try:
        image.load()
        return orientation.upright(
            pixels.to_rgb(image, b"", known.bits, known.percentiles), orientation.of_image(image)
        )
    # Pillow's plugins answer damaged files with nearly every exception there is.
    except Exception as error:
        name = readable(getattr(image, "filename", "") or f"of mode {image.mode}")
        raise UnreadableImage(name, readable(error) or type(error).__name__) from error


def small_image(data: bytes, side: int) -> np.ndarray:
    """A coarse look at an image, for comparisons: JPEGs are read at a reduced scale, many times faster.

    Args:
      data: The encoded image.
      side: Pixels that the shorter side keeps at least, where it has them.

    Returns:
      uint8 ``[h, w, 3]``, the EXIF orientation applied.

    Raises:
      UnreadableImage: It cannot be decoded.
    """

    def look(image: Image.Image, file: bytes) -> np.ndarray:
        plain_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
        if not plain_jpeg:
            return _pixels(image, file, Decoding())
        _check_size(image, MAX_PIXELS, plain_jpeg)
        scale = max(1, min(image.size) // side)
        image.draft(image.mode, (max(1, image.width // scale), max(1, image.height // scale)))
        image.load()
        return orientation.upright(pixels.to_rgb(image, file, pixels.FULL_BITS), orientation.of_image(image))

    return opening.opened(data, "", look)


def bits_used(data: bytes, name: str) -> int | None:
    """Bits that the largest value of an image with 16 bits per sample needs; None for other images.

    Raises:
      UnreadableImage: It cannot be decoded.
    """
    return opening.opened(data, name, lambda image, file: pixels.bits_used(image, file))


def _pixels(image: Image.Image, data: bytes, decoding: Decoding) -> np.ndarray:
    plain_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
    _check_size(image, decoding.max_pixels, plain_jpeg)
    side = pixels.reduction(*image.size)
    array = _decode_jpeg(data) if plain_jpeg and side == 1 else None
    if array is None:
        if plain_jpeg and side > 1:
            scale = 1 << (side - 1).bit_length()  # libjpeg reads halves, quarters and eighths
            image.draft(image.mode, (max(1, image.width // scale), max(1, image.height // scale)))
        # Before the orientation is asked for: some plugins turn the image themselves while loading.
        image.load()
    turned = orientation.of_image(image)
    if array is None:
        array = pixels.to_rgb(image, data, decoding.bits, decoding.percentiles)
    return orientation.upright(array, turned)


def _check_size(image: Image.Image, max_pixels: int, plain_jpeg: bool) -> None:
    """Refuse what would take too much memory.

    Raises:
      ValueError: It would.
    """
    count = image.width * image.height
    cost = _COSTS.get(image.format or "", 1.0)
    if plain_jpeg:
        if not image.info.get("progressive"):
            return
        cost = _PROGRESSIVE_COST
    if count * cost > max_pixels:
        needed = int(count * cost)
        raise ValueError(
            f"{image.width} × {image.height} pixels take more memory than an image may; make it smaller, save it as "
            f"a baseline JPEG, or allow it with --max_pixels={needed}"
        )


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """Pixels, or None where libjpeg has something to complain about and Pillow shall judge."""
    try:
        return simplejpeg.decode_jpeg(data)
    except ValueError:
        return None


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network; `dataclasses.asdict` of it is plain JSON.

    Bicubic interpolation with antialiasing, then a centre crop.

    Attributes:
      image_size: Side of the result, in pixels.
      resize: Side after resizing, before the crop; at least `image_size`.
      mode: ``stretch`` resizes to ``resize × resize``, ``shorter_side`` keeps the aspect ratio and makes the
        shorter side `resize`.
      bits: Of a sample of 16-bit grey images, see `Decoding`; likewise `channels`, `percentiles` and `pages`.
    """

    image_size: int
    resize: int
    mode: Literal["stretch", "shorter_side"] = "stretch"
    bits: int = pixels.FULL_BITS
    channels: int = 3
    percentiles: tuple[int, ...] = ()
    pages: str = "first"

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= self.resize:
            raise ValueError(f"image_size {self.image_size} must lie in 1 … resize ({self.resize})")
        if self.mode not in ("stretch", "shorter_side"):
            raise ValueError(f"mode {self.mode!r} is neither 'stretch' nor 'shorter_side'")
        if not 1 <= self.bits <= pixels.FULL_BITS:
            raise ValueError(f"bits {self.bits} must lie in 1 … {pixels.FULL_BITS}")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(f"channels {self.channels} must lie in 1 … {MAX_CHANNELS}")
        # JSON knows no tuples.
        object.__setattr__(self, "percentiles", tuple(self.percentiles))

    @property
    def decoding(self) -> Decoding:
        """How the pixels come that it takes."""
        return Decoding(
            bits=self.bits, channels=self.channels, percentiles=self.percentiles, pages=self.pages
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; what was there before channels and pages looks as it did then."""
        values = dataclasses.asdict(self) | {"percentiles": list(self.percentiles)}
        for name, usual in (("channels", 3), ("percentiles", []), ("pages", "first")):
            if values[name] == usual:
                del values[name]
        return values


def preprocess(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes and crops one image.

    Args:
      image: uint8 ``[h, w, 3]``, or ``[h, w, C]`` with the C channels of the preprocessing.
      preprocessing: See there; its `image_size` is S.

    Returns:
      uint8 ``[S, S, C]``.
    """
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(f"image must be uint8 [h, w, C], not {image.dtype} {list(image.shape)}")
    image = pixels.with_channels(image, preprocessing.channels)
    if image.shape[2] != 3:
        # Pillow would take four channels for colours and transparency.
        planes = [_resized(image[..., number], preprocessing) for number in range(image.shape[2])]
        return np.stack(planes, axis=2)
    return _resized(image, preprocessing)


def _resized(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """An image ``[h, w, 3]`` or ``[h, w]`` resized and cropped."""
    side = preprocessing.resize
    if preprocessing.mode == "stretch":
        width = height = side
    else:
        image = _central_part(image)
        height, width = image.shape[:2]
        width, height = (side, side * height // width) if width <= height else (side * width // height, side)
    resized = Image.fromarray(np.ascontiguousarray(image))
    if resized.size != (width, height):
        resized = resized.resize((width, height), Image.Resampling.BICUBIC)
    size = preprocessing.image_size
    # Python rounds halves to even, and so do the usual PyTorch transforms that made the pretrained weights.
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(resized)[top : top + size, left : left + size]


def _central_part(image: np.ndarray) -> np.ndarray:
    """Cuts the ends off extremely long images: the crop drops them, resizing them takes gigabytes."""
    height, width = image.shape[:2]
    longest = _LONGEST_ASPECT * min(height, width)
    top, left = max(0, (height - longest) // 2), max(0, (width - longest) // 2)
    return image[top : top + longest, left : left + longest]
