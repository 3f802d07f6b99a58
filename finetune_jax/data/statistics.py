"""Mean and spread of the pixels of a data set."""

import math

import numpy as np

_CHUNK = 1024
_LEAST_STD = 1 / 255


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels of all images, scaled to [0, 1].

    Sums are of whole numbers and exact, so the result depends neither on order nor on machine. Images are read
    a thousand at a time, and may be memory-mapped.

    Args:
      images: uint8 ``[N, H, W, C]``, at least one.

    Returns:
      ``(mean [C], std [C])``; the standard deviation is that of the pixels as a population, and at least one
      grey level (1/255), so that a channel without contrast can be divided by it.
    """
    sums = squares = np.zeros(images.shape[3], np.int64)
    for start in range(0, len(images), _CHUNK):
        pixels = np.asarray(images[start : start + _CHUNK]).reshape(-1, images.shape[3])
        counts = [np.bincount(channel, minlength=256) for channel in pixels.T]
        levels = np.arange(256)
        sums = sums + np.array([count @ levels for count in counts])
        squares = squares + np.array([count @ levels**2 for count in counts])
    count = math.prod(images.shape[:3])
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return tuple(map(float, mean / 255)), tuple(map(float, np.maximum(std / 255, _LEAST_STD)))
