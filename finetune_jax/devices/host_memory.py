"""Host memory for CPU training: freed memory stays in the process; garbage collection runs between passes only.

XLA on CPU takes the buffers of every step from malloc and gives them back after it. glibc returns large blocks to the
kernel at once, so that the next step touches every page for the first time again: a fault each, zeroed by the
kernel, and in a virtual machine often asked for from the host (measured in docs/lab).

``launch.sh`` starts processes with jemalloc where the system has it, which keeps memory for each thread by itself and
is faster; elsewhere glibc can be set to do so, at the cost of threads that wait for each other.
"""

import contextlib
import ctypes
import gc
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_SEARCHES = 60.0
"""For garbage from before, see :func:`without_garbage_collection`."""

# Parameters of mallopt(3); Python has no names for them.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = -1
_ALL_OF_THE_END = 1 << 62
_MADV_HUGEPAGE = 14
_JEMALLOC, _ALL_ARENAS = "mallctl", 4096  # what tells that it is there; of jemalloc/jemalloc.h
_HUGE_PAGE = 2 << 20
# Of the machine's memory, the part whose addresses are laid out for huge pages; nothing of it is touched.
_RESERVED_SHARE = 0.5
_SMALLEST_RESERVE = 64 << 20
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")

_searched = time.monotonic()


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed, in one heap of huge pages; for CPU hosts, before threads start.

    Blocks of every size come from the heap, none from a mapping of its own, all threads share it, and it never shrinks.
    The resident size of a process therefore stays at its peak, and grows where a free block is a little too small:
    :func:`give_back_unused`.

    Returns:
        Whether it was done; False where the C library is not glibc on Linux, or jemalloc is in its place.
    """
    libc = _glibc()
    if libc is None or hasattr(libc, _JEMALLOC):
        return False
    kept = [
        libc.mallopt(_MMAP_MAX, 0),
        libc.mallopt(_TRIM_THRESHOLD, _NEVER),
        libc.mallopt(_ARENA_MAX, 1),
    ]
    _lay_out_huge_pages(libc)
    return all(kept)


def give_back_unused() -> None:
    """Return to the kernel what is free now, wherever it lies; it keeps its addresses and comes back when touched."""
    libc = _glibc()
    if libc is None:
        return
    if hasattr(libc, _JEMALLOC):
        libc.mallctl(b"arena.%d.purge" % _ALL_ARENAS, None, None, None, ctypes.c_size_t(0))
    else:
        # The end of the heap stays, for what grows there anew would be laid out for small pages.
        libc.malloc_trim(ctypes.c_size_t(_ALL_OF_THE_END))


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Leave objects that exist already out of garbage collection; only new ones are searched meanwhile.

    A step makes thousands of objects and drops thousands. Every few steps, Python then searches all that JAX holds, for
    0.2 seconds in which nothing else of Python runs, such as XLA's calls of oneDNN (docs/lab). Old garbage
    is searched for before, unless that was done a minute ago. Afterwards nothing is frozen (``gc.freeze``), for what
    the caller had frozen cannot be told apart.
    """
    global _searched
    if time.monotonic() - _searched > SECONDS_BETWEEN_SEARCHES:
        # Python does not come to it by itself: freezing starts its counts anew.
        gc.unfreeze()
        gc.collect()
        _searched = time.monotonic()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _glibc() -> ctypes.CDLL | None:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)


def _lay_out_huge_pages(libc: Any) -> None:
    """Extend the heap far beyond what it holds, and ask for huge pages there; small ones stay where that is refused."""
    if _OVERCOMMIT.exists() and _OVERCOMMIT.read_text().strip() == "2":
        return  # addresses count as memory there, and other processes would lack it
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _RESERVED_SHARE)
    block = None
    while block is None and size >= _SMALLEST_RESERVE:
        block = libc.malloc(size)
        size = size if block else size // 2  # the user or the kernel may allow less
    if block is None:
        return
    first = -(-block // _HUGE_PAGE) * _HUGE_PAGE
    libc.madvise(first, (block + size - first) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
    libc.free(block)
