"""Photographs that are made up, and files of them."""

import io

import numpy as np
from PIL import ExifTags, Image


def smooth_photo(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / 20.0
    channels = [np.sin(x + 0.3 * y), np.cos(x * y / 9.0), np.sin(0.5 * y - x)]
    noise = np.random.default_rng(0).normal(0.0, 8.0, (height, width, 3))
    return np.clip(128 + 110 * np.stack(channels, axis=-1) + noise, 0, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif_with_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    return exif.tobytes()
