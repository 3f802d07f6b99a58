"""Reads and writes NumPy archives."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from finetune_jax.errors import DAMAGE, readable
from finetune_jax.files.weight_files.refusals import ARRAY_KINDS, BadFile, memory_budget


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file by name."""
    # Not np.load: it confuses names that end in ".npy", and it unpacks without looking at the size first.
    state = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(not member.filename.endswith(".npy") for member in members):
                raise BadFile("is a zip archive, but not one of NumPy arrays")
            if any(
                member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members
            ):
                raise BadFile("is compressed in a way that NumPy does not use; save it with numpy.savez")
            if sum(member.file_size for member in members) > memory_budget(path):
                raise BadFile("unpacks to absurdly much more than its own size; it is refused")
            for member in members:
                with archive.open(member) as file:
                    array = npy.read_array(file, allow_pickle=False)
                name = member.filename.removesuffix(".npy")
                if array.dtype.kind not in ARRAY_KINDS:
                    raise BadFile(
                        f"holds {readable(name, 80)!r} as {readable(array.dtype, 60)}; save it again as float32"
                    )
                state[name] = native(array)
    except MemoryError:
        raise
    except DAMAGE as error:
        reason = readable(
            " ".join(str(error).split()) or type(error).__name__, 160
        )  # NumPy's can have several lines
        raise BadFile(f"is no intact .npz file of plain arrays ({reason}); fetch or save it again") from error
    return state


def native(array: np.ndarray) -> np.ndarray:
    """The array in the byte order of this machine, contiguous and writable."""
    return np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "O", "W"])


def writable(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state as contiguous native arrays, once names and dtypes are known to survive in both formats."""
    if not state:
        raise ValueError("an empty state cannot be written: a file of weights has at least one array")
    arrays = {}
    for name, value in state.items():
        if not isinstance(name, str) or "\0" in name or name == "__metadata__" or not _is_unicode(name):
            raise ValueError(f"{name!r} cannot be the name of an array in a file")
        array = np.asarray(value)
        if array.dtype.name == "bfloat16":
            array = array.astype(np.float32)
        if array.dtype.kind not in ARRAY_KINDS or array.dtype.itemsize > 8:
            raise ValueError(f"{name!r} has dtype {array.dtype}; files of weights hold no such values")
        arrays[name] = native(array)
    return arrays


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def encode_npz(arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes of an ``.npz`` file of the arrays, the same for the same arrays."""
    # Not np.savez: it takes names as keyword arguments ("file" is impossible) and stamps the time into it.
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo()
            member.filename = f"{name}.npy"  # set afterwards: the constructor rewrites path separators
            with archive.open(member, "w", force_zip64=True) as file:
                npy.write_array(file, array, allow_pickle=False)
    return content.getvalue()
