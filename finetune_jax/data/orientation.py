"""How a camera was held: the orientation in the EXIF block of an image."""

import numpy as np
from PIL import ExifTags, Image

_ALL = range(1, 9)


def of_image(image: Image.Image) -> int:
    """EXIF orientation 1 … 8; 1 where there is none or the EXIF block is damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # The pixels are fine all the same.
        return 1
    return value if value in _ALL else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes the EXIF orientation, 1 … 8 (TIFF 6.0 tag 274)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
