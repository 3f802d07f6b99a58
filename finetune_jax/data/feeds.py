"""Bringing examples to the devices: resident there, or streamed from the memory-mapped cache.

Both feeds run the same per-replica functions over the same index arrays and give the same batches in the
same order; only the way of the pixels differs.
"""

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from finetune_jax.data.batch import Batch
from finetune_jax.devices import host_memory
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError

State = Any
Step = Callable[[State, Batch], State]
Axes = Callable[[State], Any]
Training = Callable[[State, np.ndarray], Iterator[tuple[State, int]]]
"""``(state, order [steps, B]) → (state, steps taken)`` after each dispatch; the state given is used up."""

# XLA frees the memory of a step a little after its results are there.
_SECONDS_TO_FREE = 0.1
_PREFETCHED_BATCHES = 4


class Arrays(Protocol):
    """Decoded examples on the host: uint8 ``images [N, H, W, C]``, and int32 ``labels [N]`` or float32
    ``[N, D]``."""

    @property
    def images(self) -> np.ndarray: ...  # noqa: D102

    @property
    def labels(self) -> np.ndarray: ...  # noqa: D102


class Feed(Protocol):
    """Examples on their way to the devices.

    Attributes:
        rows: examples of each shard, where they are in shards; batches must then take their columns from one after the
            other, see ``order.training_order_of_shards``. None where they are not.
    """

    @property
    def rows(self) -> Sequence[np.ndarray] | None: ...  # noqa: D102

    def compile_training(self, step: Step, axes: Axes = lambda state: None) -> Training:
        """The per-replica ``step`` over all replicas and the batches of an order.

        Args:
            step: of one replica.
            axes: a state on the devices to what ``Replicas.map`` takes for it, None where all of it is replicated.
        """

    def batches(self, order: np.ndarray) -> Iterator[jax.Array]:
        """uint8 ``[devices, B / replicas, H, W, C]`` for each row of ``order [steps, B]``."""


def create_feed(
    arrays: Arrays,
    replicas: Replicas,
    *,
    resident: bool,
    steps_per_dispatch: int,
    aspects: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Feed:
    """A feed that keeps the examples on every device, or one that streams them.

    Args:
        arrays: the N examples.
        replicas: the devices.
        resident: whether the examples live there.
        steps_per_dispatch: most training steps per call of a resident feed.
        aspects: float32 ``[N]``, see ``Batch``.
        weights: likewise.
    """
    if resident:
        return ResidentFeed(arrays, replicas, steps_per_dispatch, aspects, weights)
    return StreamedFeed(arrays, replicas, aspects, weights)


class ResidentFeed:
    """Examples live on every device; an epoch needs only its index array from the host."""

    rows: Sequence[np.ndarray] | None = None

    def __init__(
        self,
        arrays: Arrays,
        replicas: Replicas,
        steps_per_dispatch: int,
        aspects: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        self._replicas = replicas
        self._limit = steps_per_dispatch
        self._images, self._labels = replicas.replicate((arrays.images, arrays.labels))
        self._aspects, self._weights = replicas.replicate((aspects, weights))
        self._gather = replicas.map(lambda images, indices: images[indices], (None, 0), out_axes=0)

    def compile_training(self, step: Step, axes: Axes = lambda state: None) -> Training:
        """See :class:`Feed`."""
        replicas, limit = self._replicas, self._limit

        def dispatch(
            state: State,
            images: jax.Array,
            labels: jax.Array,
            aspects: jax.Array | None,
            weights: jax.Array | None,
            indices: jax.Array,
            slots: jax.Array,
            count: jax.Array,
        ) -> State:
            def one(position: int | jax.Array, state: State) -> State:
                chosen = indices[:, position]
                shapes = None if aspects is None else aspects[chosen]
                factors = None if weights is None else weights[chosen]
                return step(state, Batch(images[chosen], labels[chosen], slots, shapes, weights=factors))

            if limit == 1:
                # No loop on CPU: XLA runs convolution gradients inside one many times slower.
                return one(0, state)
            # The number of steps is a runtime value, so that the shorter last dispatch is the same program.
            return jax.lax.fori_loop(0, count, one, state)

        mapped = _releasing_memory_after_first_call(
            replicas, dispatch, axes, (None, None, None, None, 0, 0, None)
        )

        def run(state: State, order: np.ndarray) -> Iterator[tuple[State, int]]:
            local_order = replicas.local_columns(order)
            slots = replicas.split(_positions_in_batch(replicas, order))
            examples = (self._images, self._labels, self._aspects, self._weights)
            # Only the last dispatch may be a shorter one; a copy for every device each time would cost the host.
            counts = {
                steps: replicas.replicate(np.int32(steps))
                for steps in {limit, len(local_order) % limit} - {0}
            }
            with host_memory.without_garbage_collection():
                for start in range(0, len(local_order), limit):
                    rows = local_order[start : start + limit]
                    indices = np.zeros((local_order.shape[1], limit), np.int32)
                    indices[:, : len(rows)] = rows.T
                    state = mapped(state, *examples, replicas.split(indices), slots, counts[len(rows)])
                    yield state, len(rows)

        return run

    def batches(self, order: np.ndarray) -> Iterator[jax.Array]:
        """See :class:`Feed`."""
        for row in self._replicas.local_columns(order):
            yield self._gather(self._images, self._replicas.split(row))


class StreamedFeed:
    """Examples are read from the host a few batches ahead of the devices."""

    def __init__(
        self,
        arrays: Arrays,
        replicas: Replicas,
        aspects: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        self._arrays = arrays
        self._aspects, self._weights = aspects, weights
        self._replicas = replicas
        self.rows: Sequence[np.ndarray] | None = getattr(arrays.images, "rows", None)

    def compile_training(self, step: Step, axes: Axes = lambda state: None) -> Training:
        """See :class:`Feed`."""
        replicas = self._replicas

        mapped = _releasing_memory_after_first_call(replicas, step, axes, (0,))

        def run(state: State, order: np.ndarray) -> Iterator[tuple[State, int]]:
            slots = replicas.split(_positions_in_batch(replicas, order))
            local_order = replicas.local_columns(order)
            with host_memory.without_garbage_collection():
                for number, (images, labels) in enumerate(self._read(order)):
                    aspects, weights = (
                        None if values is None else replicas.split(values[local_order[number]])
                        for values in (self._aspects, self._weights)
                    )
                    batch = Batch(
                        replicas.split(images), replicas.split(labels), slots, aspects, weights=weights
                    )
                    state = mapped(state, batch)
                    if number % _PREFETCHED_BATCHES == 0:
                        jax.block_until_ready(state)  # batches that wait for the device take memory
                    yield state, 1

        return run

    def batches(self, order: np.ndarray) -> Iterator[jax.Array]:
        """See :class:`Feed`."""
        for images, _ in self._read(order):
            yield self._replicas.split(images)

    def _read(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        import grain

        # Images that are decoded on demand say how many threads shall do it.
        threads = max(_PREFETCHED_BATCHES, getattr(self._arrays.images, "workers", 0))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
        with contextlib.ExitStack() as files:
            rows = _Rows(self._arrays, self._replicas.local_columns(order), files)
            yield from grain.MapDataset.source(rows).to_iter_dataset(options)


class _Rows:
    """Random access to whole batches, the source grain's threads read from."""

    def __init__(self, arrays: Arrays, order: np.ndarray, files: contextlib.ExitStack) -> None:
        self._arrays = arrays
        self._order = order
        # Mapped pages would count as this process's memory, up to the size of the data set; read ones do not.
        self._file = None
        if isinstance(arrays.images, np.memmap) and arrays.images.filename is not None:
            self._file = files.enter_context(open(arrays.images.filename, "rb"))  # noqa: SIM115
            self._offset = arrays.images.offset

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        row = self._order[step]
        return self._images(row), self._arrays.labels[row]

    def _images(self, row: np.ndarray) -> np.ndarray:
        images = self._arrays.images
        if self._file is None:
            return images[row]
        out = np.empty((len(row), *images.shape[1:]), images.dtype)
        size = out[0].nbytes
        for image, index in zip(out, row, strict=True):
            if os.preadv(self._file.fileno(), [image], self._offset + int(index) * size) != size:
                raise UserError(
                    f"{self._file.name} is cut short; delete its folder to decode the images again"
                )
        return out


def _releasing_memory_after_first_call(
    replicas: Replicas, function: Callable[..., State], axes: Axes, in_axes: Sequence[int | None]
) -> Callable[..., State]:
    """``function`` mapped, its first argument donated; memory is put in order after the first call.

    The axes of the first argument, and of the result, are those of the first one that comes.

    Small values that were made while the first step held its memory lie behind it, and others in it as soon as it is
    free; the second step, for which that is now too little, would take the same again.
    """
    mapped: Callable[..., State] | None = None
    settled = False

    def call(*arguments: Any) -> State:
        nonlocal mapped, settled
        if mapped is None:
            of_state = axes(arguments[0])
            mapped = replicas.map(function, (of_state, *in_axes), of_state, donate=(0,))
        result = mapped(*arguments)
        if not settled:
            settled = True
            gc.freeze()  # what tracing and compiling made exists now too, see host_memory.without_garbage_collection
            if replicas.on_cpu:
                jax.block_until_ready(result)
                time.sleep(_SECONDS_TO_FREE)
                host_memory.give_back_unused()
        return result

    return call


def _positions_in_batch(replicas: Replicas, order: np.ndarray) -> np.ndarray:
    return replicas.local_columns(np.arange(order.shape[1], dtype=np.int32)[None])[0]
