"""From encoded image to network input, on the host: uint8 RGB ``[h, w, 3]`` throughout."""

import dataclasses
import io
import os
from pathlib import Path
from typing import Literal

import numpy as np
import simplejpeg
from PIL import ExifTags, Image

from finetune_jax.errors import UserError

# Only these decoders look at a file, whatever its suffix is: some of Pillow's others run programs.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_LONGEST_ASPECT = 16


class UnreadableImage(UserError):
    """An image that cannot be decoded.

    Attributes:
      name: What a message calls it, e.g. its path.
      reason: Why, in a few words.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"cannot read the image {name}: {reason}")
        self.name = name
        self.reason = reason


def read_image(path: str | os.PathLike[str], name: str | None = None) -> np.ndarray:
    """Decodes an image file.

    Returns:
      uint8 ``[h, w, 3]``, see `decode_image`.

    Raises:
      UnreadableImage: Also where the file cannot be opened.
    """
    name = os.fspath(path) if name is None else name
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImage(name, error.strerror or str(error)) from error
    return decode_image(data, name)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes a JPEG, PNG, GIF, BMP, WebP, TIFF or PPM image to upright RGB.

    The first frame of an animation counts. Transparency is put on white. 16-bit grey is scaled to 8 bits.
    Colour and grey JPEGs take a faster way with the same pixels.

    Args:
      data: The encoded image.
      name: For the error.

    Returns:
      uint8 ``[h, w, 3]``, the EXIF orientation applied.

    Raises:
      UnreadableImage: With the reason.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            plain_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
            pixels = _decode_jpeg(data) if plain_jpeg else None
            if pixels is None:
                # Before the orientation is asked for: some plugins turn the image themselves while loading.
                image.load()
            orientation = _orientation(image)
            return _upright(_to_rgb(image) if pixels is None else pixels, orientation)
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(name, "empty file" if not data else "not a known image format") from error
    except MemoryError as error:
        raise UnreadableImage(name, "too large for the memory") from error
    # Pillow's plugins answer damaged files with nearly every exception there is.
    except Exception as error:
        raise UnreadableImage(name, " ".join(str(error).split()) or type(error).__name__) from error


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """Pixels, or None where libjpeg has something to complain about and Pillow shall judge."""
    try:
        return simplejpeg.decode_jpeg(data)
    except ValueError:
        return None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 … 8; 1 where there is none or the EXIF block is damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # The pixels are fine all the same.
        return 1
    return value if value in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes the EXIF orientation, 1 … 8 (TIFF 6.0 tag 274)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """A loaded image of any mode to uint8 ``[h, w, 3]``."""
    if image.mode in _WIDE_GREY:
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError("32-bit grey values have no known range; save it with 8 or 16 bits")
        return np.repeat(((wide + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point values have no known range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network; `dataclasses.asdict` of it is plain JSON.

    Bicubic interpolation with antialiasing, then a centre crop.

    Attributes:
      image_size: Side of the result, in pixels.
      resize: Side after resizing, before the crop; at least `image_size`.
      mode: ``stretch`` resizes to ``resize × resize``, ``shorter_side`` keeps the aspect ratio and makes the
        shorter side `resize`.
    """

    image_size: int
    resize: int
    mode: Literal["stretch", "shorter_side"] = "stretch"

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= self.resize:
            raise ValueError(f"image_size {self.image_size} must lie in 1 … resize ({self.resize})")
        if self.mode not in ("stretch", "shorter_side"):
            raise ValueError(f"mode {self.mode!r} is neither 'stretch' nor 'shorter_side'")


def preprocess(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes and crops one image.

    Args:
      image: uint8 ``[h, w, 3]``.
      preprocessing: See there; its `image_size` is S.

    Returns:
      uint8 ``[S, S, 3]``.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 [h, w, 3], not {image.dtype} {list(image.shape)}")
    side = preprocessing.resize
    if preprocessing.mode == "stretch":
        width = height = side
    else:
        image = _central_part(image)
        height, width = image.shape[:2]
        width, height = (side, side * height // width) if width <= height else (side * width // height, side)
    resized = Image.fromarray(image)
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
