"""Opening an encoded image: what is known of it beforehand, which decoders look at it, and how it fails."""

import dataclasses
import io
import struct
from collections.abc import Callable
from typing import TypeVar

from PIL import Image

from finetune_jax.data import formats, pixels
from finetune_jax.data.containers import without_metadata
from finetune_jax.errors import UserError, readable

MAX_CHANNELS = 13
"""Of an image: as many as Sentinel-2 has bands."""
MAX_PIXELS = 178_956_970  # where Pillow, left to itself, refuses an image

T = TypeVar("T")


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


@dataclasses.dataclass(frozen=True)
class Decoding:
    """What files alone do not tell about their pixels, and how much memory they may take.

    Attributes:
      bits: Of a sample of 16-bit grey images; ``2**bits - 1`` is white.
      max_pixels: Larger images are refused, unless their format can be read at a reduced scale (JPEG).
      channels: Of the images. With 1 or 3, images are RGB here and `preprocess` makes grey of them; with other numbers
        all channels of an array, of a TIFF file or of its pages come as they are.
      percentiles: Of the values of an image with more than eight bits that become black and white, instead of `bits`.
      pages: ``first`` page of a TIFF file, or all of them as ``channels`` or as ``images`` of their own.
    """

    bits: int = pixels.FULL_BITS
    max_pixels: int = MAX_PIXELS
    channels: int = 3
    percentiles: tuple[int, ...] = ()
    pages: str = "first"

    @property
    def in_planes(self) -> bool:
        """Whether images come with channels that are no colours, see ``planes``."""
        return self.channels not in (1, 3) or self.pages == "channels"


def opened(data: bytes, name: str, function: Callable[[Image.Image, bytes], T]) -> T:
    """What `function` makes of the opened image, with and then without the metadata around the pixels.

    Raises:
      UnreadableImage: It cannot be opened, or the function raises.
    """
    shorter = None
    try:
        try:
            with _open(data) as image:
                return function(image, data)
        except Exception:
            # Damaged or very large text beside sound pixels is no reason to refuse them.
            shorter = without_metadata(data)
            if shorter is None:
                raise
        with _open(shorter) as image:
            return function(image, shorter)
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(name, "empty file" if not data else "not a known image format") from error
    except MemoryError as error:
        raise UnreadableImage(name, "too large for the memory") from error
    # Pillow's plugins answer damaged files with nearly every exception there is.
    except Exception as error:
        raise UnreadableImage(name, readable(" ".join(str(error).split())) or type(error).__name__) from error


def _open(data: bytes) -> Image.Image:
    """``Image.open`` with the limit on pixels left to `_check_size`, which knows what can be read in parts.

    Raises:
      UnidentifiedImageError: No decoder knows it.
    """
    for name in formats.decoders():
        factory, accept = Image.OPEN[name]
        file = io.BytesIO(data)
        try:
            if accept is None or accept(data[:16]) is True:
                return factory(file, "")
        # What Pillow's own loop takes for "not this format".
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    raise Image.UnidentifiedImageError
