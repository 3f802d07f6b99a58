"""Reads safetensors files."""

from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from finetune_jax.errors import DAMAGE, readable
from finetune_jax.files.weight_files.numpy_archive import native
from finetune_jax.files.weight_files.refusals import BadFile, widened_bfloat16

_DAMAGE: tuple[type[Exception], ...] = (safetensors.SafetensorError, *DAMAGE)
_SAFETENSORS_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "BF16": "<u2",
    "F32": "<f4",
    "F64": "<f8",
    "C64": "<c8",
}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.safetensors`` file by name."""
    # Not safetensors.numpy.load_file: it knows no bfloat16.
    try:
        entries = safetensors.deserialize(path.read_bytes())
        return {name: _array(name, entry) for name, entry in entries}
    except MemoryError:
        raise
    except _DAMAGE as error:
        raise BadFile(
            f"is no intact safetensors file ({readable(error, 160)}); fetch or copy it again"
        ) from error


def _array(name: str, entry: dict[str, Any]) -> np.ndarray:
    if entry["dtype"] not in _SAFETENSORS_DTYPES:
        raise BadFile(f"holds {readable(name, 80)!r} as {entry['dtype']}; save it again as float32")
    stored = np.dtype(_SAFETENSORS_DTYPES[entry["dtype"]])
    array = np.frombuffer(entry["data"], dtype=stored).reshape(entry["shape"])
    return widened_bfloat16(array) if entry["dtype"] == "BF16" else native(array)
