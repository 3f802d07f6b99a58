"""Why a weight file is refused, and the limits of what is read."""

from pathlib import Path

import numpy as np

FETCH_AGAIN = "is damaged or cut short; fetch or copy the file again"


class BadFile(Exception):
    """The rest of a sentence that begins with the path of the file."""


def memory_budget(path: Path) -> int:
    """Bytes that a file may unpack to.

    Far above what weights need (expanded tensors, tied weights, bfloat16 widened, sparse weights compressed),
    far below what a file made to exhaust memory would ask for.
    """
    return 64 * 2**20 + 16 * path.stat().st_size


def widened_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Float32 of the same shape from the 16 bits of bfloat16: they are the upper half of a float32."""
    wide = np.array(bits, dtype=np.uint32, order="C")
    wide <<= 16
    return wide.view(np.float32)


ARRAY_KINDS = "biufc"
"""Kinds of NumPy dtypes that weights may have."""
