"""A parallel map that keeps the order and a bound on memory."""

import collections
import itertools
import os
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_CHUNK = 8  # images per task: hides the cost of a task, keeps the bound on memory small


def available_cores() -> int:
    """Number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered_map(
    function: Callable[[int], T],
    count: int,
    *,
    workers: int | None = None,
    progress: bool = False,
    title: str = "",
) -> Generator[T, None, None]:
    """Yields ``function(0), …, function(count - 1)``, computed by threads, in this order.

    Threads and not processes: reading, JPEG decoding, resizing and hashing release the interpreter lock.
    No more than ``32 * workers`` results wait at any time, however slow the consumer is.

    Args:
      function: Called from several threads at once. The first exception it raises ends the map.
      count: Number of calls.
      workers: Number of threads; by default two per core, as some of them wait for the disk.
      progress: Whether to show a bar on stderr; it stays silent where stderr is no terminal.
      title: Of the bar.
    """
    from tqdm import tqdm

    workers = workers or 2 * available_cores()
    starts = iter(range(0, count, _CHUNK))

    def chunk(start: int) -> list[T]:
        return [function(index) for index in range(start, min(start + _CHUNK, count))]

    pool = ThreadPoolExecutor(workers)
    bar = tqdm(total=count, desc=title, unit="img", disable=None if progress else True)
    try:
        waiting: collections.deque[Future[list[T]]] = collections.deque(
            pool.submit(chunk, start) for start in itertools.islice(starts, 4 * workers)
        )
        while waiting:
            results = waiting.popleft().result()
            for start in itertools.islice(starts, 1):
                waiting.append(pool.submit(chunk, start))
            for result in results:
                yield result
                bar.update()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        bar.close()
