"""Images whose channels are no colours: bands of a TIFF file, or its pages one behind the other."""

import io

import numpy as np
from PIL import Image

from finetune_jax.data import opening, pixels
from finetune_jax.data.opening import Decoding, UnreadableImage
from finetune_jax.errors import readable

_UNCONVERTED_MODES = ("LA", "RGBA", "CMYK")


def decode_planes(image: Image.Image, data: bytes, decoding: Decoding) -> np.ndarray:
    """All channels of an opened image, uint8 ``[h, w, C]``: its pages, or what Pillow knows of one page.

    Raises:
      ValueError: Its pages differ in size, it has other channels than are wanted, or it is too large.
    """
    pages = int(getattr(image, "n_frames", 1)) if decoding.pages == "channels" else 1
    if image.width * image.height * max(pages, decoding.channels) > decoding.max_pixels * 3:
        raise ValueError(
            f"{pages} pages of {image.width} × {image.height} pixels take more memory than an image may"
        )
    if pages > 1 and pages != decoding.channels:
        raise ValueError(f"it has {pages} pages, and --channels={decoding.channels} are wanted")
    parts = []
    for page in range(pages):
        image.seek(page)
        image.load()
        if pages == 1 and image.mode in _UNCONVERTED_MODES:
            part = np.array(image)
        else:
            rgb = pixels.to_rgb(image, data if page == 0 else b"", decoding.bits, decoding.percentiles)
            part = pixels.with_channels(rgb, 1) if pages > 1 or image.mode not in ("RGB", "P") else rgb
        parts.append(part)
    if len({part.shape for part in parts}) > 1:
        raise ValueError("its pages differ in size")
    return np.concatenate(parts, axis=2)


def pages_in(data: bytes, name: str) -> int:
    """Number of pages of an image file; 1 unless it is a TIFF.

    Raises:
      UnreadableImage: It cannot be opened.
    """

    def count(image: Image.Image, file: bytes) -> int:
        del file
        return int(getattr(image, "n_frames", 1)) if image.format == "TIFF" else 1

    return opening.opened(data, name, count)


def decode_image(data: bytes, name: str, decoding: Decoding) -> np.ndarray:
    """An encoded image with all its channels, uint8 ``[h, w, C]``.

    Args:
      data: The file.
      name: For the error.
      decoding: Whose channels are wanted.

    Raises:
      UnreadableImage: It cannot be read, or has other channels.
    """
    try:
        planes = opening.opened(data, name, lambda image, file: decode_planes(image, file, decoding))
    except UnreadableImage as error:
        unknown = isinstance(error.__cause__, Image.UnidentifiedImageError)
        banded = _of_bands(data, name, decoding) if unknown else None
        if banded is None:
            raise
        planes = banded
    if planes.shape[2] != decoding.channels:
        raise UnreadableImage(
            name, f"it has {planes.shape[2]} channels, and --channels={decoding.channels} are wanted"
        )
    return np.ascontiguousarray(planes)


def _of_bands(data: bytes, name: str, decoding: Decoding) -> np.ndarray | None:
    """A TIFF file of more bands than Pillow knows, by tifffile; None where it is no TIFF file."""
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    try:
        import tifffile
    except ImportError as error:
        raise UnreadableImage(
            name, 'Pillow does not know its bands; pip install "finetune-jax[tiff]" reads them'
        ) from error
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            if int(np.prod(page.shape)) > decoding.max_pixels * 3:
                raise UnreadableImage(name, f"{page.shape} values take more memory than an image may")
            values, axes = page.asarray(), page.axes
    # It answers damaged files with nearly every exception there is.
    except Exception as error:
        raise UnreadableImage(name, readable(error) or type(error).__name__) from error
    if "S" not in axes or values.ndim != 3:
        raise UnreadableImage(name, f"it has the axes {axes}, and height, width and samples are wanted")
    return of_values(np.moveaxis(values, axes.index("S"), 2), decoding)


def of_values(values: np.ndarray, decoding: Decoding) -> np.ndarray:
    """Values of channels as uint8, each channel by the percentiles or bits of the decoding.

    Args:
      values: ``[h, w, C]``, uint8, uint16, or others where percentiles say what is black and white.
      decoding: See there.

    Raises:
      ValueError: They have no known range.
    """
    if values.dtype == np.uint8:
        return values
    if decoding.percentiles:
        channels = [
            pixels.stretched(values[..., band], decoding.percentiles) for band in range(values.shape[2])
        ]
        return np.stack(channels, axis=2)
    if values.dtype != np.uint16:
        raise ValueError(f"values of the type {values.dtype} have no known range; give --percentiles=1,99")
    white = 2**decoding.bits - 1
    return ((np.minimum(values, white).astype(np.int64) * 255 + white // 2) // white).astype(np.uint8)
