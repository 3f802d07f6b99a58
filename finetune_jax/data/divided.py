"""The images of a split in shards, of which a process decodes and keeps its own alone (``--data_shards``).

Which examples a shard has depends on their number and that of the shards, so whoever shares the shards among how many
processes comes to the same batches.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_jax.data.cache import Arrays
from finetune_jax.data.decode import Preprocessing
from finetune_jax.data.examples import Examples
from finetune_jax.data.on_demand import image_reader
from finetune_jax.data.order import BLOCK, rows_of_shards
from finetune_jax.errors import UserError

Materialise = Callable[[Examples, str], Arrays]
"""``(examples, title) → decoded images`` of one shard."""

_READ_AHEAD_FROM = 1 << 16
"""Images of a shard from which they are shuffled in blocks, see ``order.training_order_of_shards``."""


@dataclass(frozen=True)
class Division:
    """The shards of the images of a run, and which of them are this process's.

    Attributes:
        shards: number of them all.
        process_index: of this process.
        process_count: which divides the number of shards.
    """

    shards: int
    process_index: int = 0
    process_count: int = 1

    @property
    def local_shards(self) -> range:
        """The shards of this process, which are those of its columns of a batch."""
        each = self.shards // self.process_count
        return range(self.process_index * each, (self.process_index + 1) * each)


class Images:
    """Like an array uint8 ``[N, H, W, C]``: this process's shards are kept, all other images decoded when asked for.

    Training and evaluation ask for its own alone; pages that show a few images may ask for any.

    Attributes:
        shape: ``(N, H, W, C)``.
        dtype: uint8.
        rows: examples of each shard.
        workers: threads that shall take batches at once; 0 is as usual.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4
    nbytes = math.inf
    """They are always streamed."""

    def __init__(
        self,
        rows: Sequence[np.ndarray],
        kept: Mapping[int, Any],
        read: Callable[[int], np.ndarray],
        shape: tuple[int, int, int, int],
    ) -> None:
        """Put together what is kept.

        Args:
            rows: examples of each shard.
            kept: images of each shard of this process.
            read: decodes one example.
            shape: ``(N, H, W, C)``.
        """
        self.rows = rows
        self.shape = shape
        self._kept = {shard: _Kept(images) for shard, images in kept.items()}
        self.workers = max([getattr(images, "workers", 0) for images in kept.values()], default=0)
        self._read = read
        self._shard = np.zeros(shape[0], np.int32)
        self._place = np.zeros(shape[0], np.int32)
        for shard, indices in enumerate(rows):
            self._shard[indices] = shard
            self._place[indices] = np.arange(len(indices))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, int | np.integer):
            return self[np.array([index])][0]
        if isinstance(index, slice):
            index = np.arange(len(self))[index]
        numbers = np.asarray(index)
        images = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        for image, number in zip(images, numbers.tolist(), strict=True):
            kept = self._kept.get(int(self._shard[number]))
            if kept is None:
                image[:] = self._read(number)
            else:
                kept.read(int(self._place[number]), image)
        return images

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> Any:
        """The same images after a function of one, for the few that pages show."""
        from finetune_jax.data import on_demand

        return on_demand.Images(lambda number: function(self[number]), (*self.shape[:3], 3), 1)


class _Kept:
    """Images of one shard; a memory map is read without being mapped, as its pages would count as this process's."""

    def __init__(self, images: Any) -> None:
        self._images = images
        self._file = -1
        if isinstance(images, np.memmap) and images.filename is not None:
            self._name = str(images.filename)
            self._file = os.open(self._name, os.O_RDONLY)
            self._offset = images.offset
            self._size = int(np.prod(images.shape[1:]))
            self._read_ahead = len(images) > _READ_AHEAD_FROM
            self._asked: set[int] = set()

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def read(self, place: int, image: Any) -> None:
        if self._file < 0:
            image[:] = self._images[place]
            return
        if self._read_ahead:
            self._ask_for_block(place // BLOCK)
        if os.preadv(self._file, [image], self._offset + place * self._size) != self._size:
            raise UserError(f"{self._name} is cut short; delete its folder to decode the images again")

    def _ask_for_block(self, block: int) -> None:
        """Have the system read a block at once: its other images are wanted soon."""
        if block in self._asked:
            return
        if len(self._asked) * BLOCK >= len(self._images):
            self._asked.clear()  # the next epoch
        self._asked.add(block)
        size = BLOCK * self._size
        os.posix_fadvise(self._file, self._offset + block * size, size, os.POSIX_FADV_WILLNEED)


def materialise(
    examples: Examples,
    preprocessing: Preprocessing,
    division: Division,
    of_shard: Materialise,
    *,
    title: str,
) -> Arrays:
    """The examples, those of this process's shards decoded; all processes of a job call this.

    Args:
        examples: N images.
        preprocessing: of each.
        division: of the images.
        of_shard: decodes a shard, all of whose images must be readable.
        title: of the bar.

    Returns:
        The N images. ``sizes`` are right for those of this process; the others have the shorter sides of the others'
        images, in any order.

    Raises:
        UserError: an image cannot be read, or another process cannot read one of its.
    """
    rows = rows_of_shards(len(examples), division.shards)
    parts: dict[int, Arrays] = {}
    for shard in division.local_shards:
        number = f", shard {shard + 1} of {division.shards}"
        parts[shard] = of_shard(examples.subset(rows[shard]), title + number)
    local_indices = np.concatenate([rows[shard] for shard in division.local_shards])
    sizes = np.zeros((len(examples), 2), np.int32)
    sizes[local_indices] = np.concatenate([part.sizes for part in parts.values()])
    if division.process_count > 1:
        from finetune_jax.devices import cluster  # starts JAX, which commands that only read flags need not

        job = cluster.active()
        texts = [] if job is None else job.gather(json.dumps(Counter(sizes[local_indices].min(1).tolist())))
        others = [json.loads(text) for index, text in enumerate(texts) if index != division.process_index]
        sides = [int(side) for counts in others for side, count in counts.items() for _ in range(count)]
        foreign = np.setdiff1d(np.arange(len(examples)), local_indices)
        sizes[foreign[: len(sides)]] = np.array(sides, np.int32).reshape(-1, 1)
    side = preprocessing.image_size
    images: Any = Images(
        rows,
        {shard: part.images for shard, part in parts.items()},
        image_reader(examples, preprocessing),
        (len(examples), side, side, preprocessing.channels),
    )
    return Arrays(images, examples.truth, np.arange(len(examples)), sizes, weights=examples.weights)
