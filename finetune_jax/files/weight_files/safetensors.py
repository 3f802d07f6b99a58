"""Reads safetensors files."""

from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from finetune_jax.files.weight_files.numpy_archive import native
from finetune_jax.files.weight_files.refusals import BadFile, widened_bfloat16

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
    except safetensors.SafetensorError as error:
        raise BadFile(f"is no intact safetensors file ({error}); fetch or copy it again") from error
    state = {}
    for name, entry in entries:
        if entry["dtype"] not in _SAFETENSORS_DTYPES:
            raise BadFile(f"holds {name!r} as {entry['dtype']}; save it again as float32")
        stored = np.dtype(_SAFETENSORS_DTYPES[entry["dtype"]])
        array = np.frombuffer(entry["data"], dtype=stored).reshape(entry["shape"])
        bfloat16 = entry["dtype"] == "BF16"
        state[name] = widened_bfloat16(array) if bfloat16 else native(array)
    return state
