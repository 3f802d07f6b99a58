"""What callers hand over as images: paths, encoded files, Pillow images, arrays; one or many."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from finetune_jax.data import pixels, planes
from finetune_jax.data.decode import Decoding, UnreadableImage, decode_image, from_pillow, read_image

_CHANNELS = (1, 3, 4)
_FORMS = (
    "a path, an encoded file as bytes or file object, a Pillow image, or an array uint8 [h, w], [h, w, 1], [h, w, 3] "
    "or [h, w, 4]"
)


def one_by_one(images: Any) -> Iterator[Any]:
    """The single images of what may be one or several.

    Args:
        images: an image, an array ``[N, h, w, C]``, or an iterable of images.

    Raises:
        TypeError: it is neither.
    """
    if _is_array(images):
        array = np.asarray(images)
        if array.ndim == 4:
            yield from array
        else:
            yield array
    elif _is_single(images):
        yield images
    elif isinstance(images, Iterable):
        yield from images
    else:
        raise TypeError(f"images must be {_FORMS}, or several of these, not {type(images).__name__}")


def pixels_of(image: Any, decoding: Decoding) -> np.ndarray:
    """One image as uint8 RGB ``[h, w, 3]``, upright; transparency is put on white.

    Args:
        image: what :func:`one_by_one` gives.
        decoding: of its values.

    Raises:
        UnreadableImage: a file cannot be decoded.
        TypeError: it is no image.
        ValueError: an array has another shape or type.
    """
    if _is_array(image):
        return _of_array(np.asarray(image), decoding)
    if isinstance(image, Image.Image):
        return from_pillow(image, decoding)
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image), "given as bytes", decoding)
    if hasattr(image, "read"):
        name = str(getattr(image, "name", "given as a file"))
        content = image.read()
        if not isinstance(content, bytes):
            raise UnreadableImage(name, "opened as text; open it with mode 'rb'")
        return decode_image(content, name, decoding)
    if isinstance(image, str | os.PathLike):
        return read_image(image, decoding=decoding)
    raise TypeError(f"an image must be {_FORMS}, not {type(image).__name__}")


def _of_array(array: np.ndarray, decoding: Decoding) -> np.ndarray:
    if decoding.channels not in (1, 3):
        if array.ndim != 3 or array.shape[2] != decoding.channels or 0 in array.shape:
            raise ValueError(
                f"an image must be an array [h, w, {decoding.channels}], not {array.dtype} {list(array.shape)}"
            )
        return planes.of_values(array, decoding)
    if array.ndim == 2 and array.dtype != np.uint8 and decoding.percentiles:
        return np.repeat(pixels.stretched(array, decoding.percentiles)[..., None], 3, axis=2)
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if not grey and not (array.ndim == 3 and array.shape[2] in _CHANNELS):
        raise ValueError(f"an image must be {_FORMS}, not {array.dtype} {list(array.shape)}")
    if 0 in array.shape:
        raise ValueError(f"an image of the shape {list(array.shape)} has no pixels")
    if array.dtype != np.uint8 and not (grey and array.dtype == np.uint16):
        raise ValueError(
            f"an image must be uint8 (grey also uint16), not {array.dtype} {list(array.shape)}; scale its values to "
            "0 … 255"
        )
    if not grey and array.shape[2] == 3:
        return array
    plane = array[..., 0] if grey and array.ndim == 3 else array
    return from_pillow(Image.fromarray(np.ascontiguousarray(plane)), decoding)


def _is_array(images: Any) -> bool:
    """Of NumPy, JAX or PyTorch on the host; a Pillow image has this protocol too."""
    return hasattr(images, "__array__") and not isinstance(images, Image.Image)


def _is_single(images: Any) -> bool:
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    return isinstance(images, kinds) or hasattr(images, "read")
