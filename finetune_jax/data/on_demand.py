"""Images that are decoded whenever they are asked for, in the place of those of the cache."""

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from finetune_jax.data import orientation
from finetune_jax.data.cache import Arrays
from finetune_jax.data.decode import Preprocessing, UnreadableImage, preprocess
from finetune_jax.data.examples import Examples
from finetune_jax.data.parallel import available_cores, ordered_map

Read = Callable[[int], np.ndarray]


class Images:
    """Like an array uint8 ``[N, H, W, C]``, of which single images and rows of images can be taken, from any thread.

    Attributes:
        shape: ``(N, H, W, C)``.
        dtype: uint8.
        workers: threads that shall take batches at once.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4
    nbytes = math.inf
    """They never fit anywhere."""

    def __init__(self, read: Read, shape: tuple[int, int, int, int], workers: int) -> None:
        self._read = read
        self.shape = shape
        self.workers = workers

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, int | np.integer):
            return self._read(int(index))
        if isinstance(index, slice):
            index = np.arange(len(self))[index]
        images = np.empty((len(index), *self.shape[1:]), np.uint8)
        for place, number in enumerate(np.asarray(index).tolist()):
            images[place] = self._read(number)
        return images

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> "Images":
        """The same images after a function of one."""
        return Images(lambda index: function(self._read(index)), (*self.shape[:3], 3), self.workers)


def arrays(
    examples: Examples, preprocessing: Preprocessing, *, with_sizes: bool, workers: int | None, progress: bool
) -> Arrays:
    """The examples, none of them decoded yet.

    Args:
        examples: N images.
        preprocessing: of each.
        with_sizes: whether the sizes before resizing are needed, which are then read from the files' headers.
        workers: number of threads; None is two per core.
        progress: whether to show a bar while headers are read.

    Raises:
        UnreadableImage: a header cannot be read; or later, by the images, one of them.
    """
    read = image_reader(examples, preprocessing)
    count, side = len(examples), preprocessing.image_size
    threads = workers or 2 * available_cores()
    images: Any = Images(read, (count, side, side, preprocessing.channels), threads)
    sizes = np.ones((count, 2), np.int32)
    if with_sizes:
        heights_and_widths = ordered_map(
            lambda i: _size(examples, i), count, workers=workers, progress=progress, title="reading headers"
        )
        sizes = np.array(list(heights_and_widths), np.int32).reshape(-1, 2)
    return Arrays(images, examples.truth, np.arange(count), sizes, weights=examples.weights)


def image_reader(examples: Examples, preprocessing: Preprocessing) -> Read:
    """Index to the prepared image of an example; raises UnreadableImage."""

    def read(index: int) -> np.ndarray:
        try:
            return preprocess(examples.read(index), preprocessing)
        except ValueError as error:
            raise UnreadableImage(examples.names[index], str(error)) from error

    return read


def _size(examples: Examples, index: int) -> tuple[int, int]:
    """Height and width of an image as it is decoded, from its header where it has one."""
    if examples.encoded is not None:
        try:
            with Image.open(io.BytesIO(examples.encoded(index))) as image:
                width, height = image.size
                return (width, height) if orientation.of_image(image) >= 5 else (height, width)
        except (OSError, SyntaxError, ValueError):
            pass  # decoding knows more
    height, width = examples.read(index).shape[:2]
    return height, width
