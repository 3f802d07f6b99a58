"""Files of weights: reading and writing flat states `{name: array}`.

A state read here has plain string names and owned, C-contiguous arrays in native byte order; bfloat16
becomes float32, which is exact. Nothing in a file is ever executed. That matters for `.pth` files, which are
pickles, that is programs: here a small interpreter runs only the instructions that build data, knows a fixed
table of names (`_FUNCTIONS`, `_STORAGE_TYPES`, `_IGNORED_GLOBALS`) and imports nothing. Sizes that a file
claims are checked against the bytes it has before memory is taken.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from finetune_jax.errors import UserError
from finetune_jax.files.weight_files.numpy_archive import encode_npz, read_npz, writable
from finetune_jax.files.weight_files.refusals import BadFile
from finetune_jax.files.weight_files.safetensors import read_safetensors
from finetune_jax.files.weight_files.torch_file import read_torch


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a flat state from a `.safetensors`, `.npz` or torch (`.pth`, `.pt`, `.bin`, `.pth.tar`) file.

    Both containers of `torch.save` are understood: zip (torch 1.6 on) and the earlier one. If a torch file is
    a training checkpoint, its model state is taken: the nested dict of tensors with one of the usual names
    (`state_dict`, `model`, `net`, ...) or else the largest; optimiser states are passed over. A `module.` or
    `_orig_mod.` before every name (`DataParallel`, `torch.compile`) is removed.

    Args:
        path: the file; its suffix decides the format.

    Returns:
        Name to array, in the order of the file.

    Raises:
        UserError: the file is missing, damaged, of another format, ambiguous, or asks for code to be run.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise BadFile("is a directory; name a file of weights inside it")
        if not path.exists():
            raise BadFile(f"does not exist; looked for {path.absolute()}")
        reader = _reader_for(path.name)
        _refuse_impostors(path)
        state = reader(path)
        if not state:
            raise BadFile("holds no arrays, so there are no weights to take from it")
    except BadFile as error:
        raise UserError(f"{path} {error}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise UserError(
            f"{path} asks for more memory than there is; check that it is the right file."
        ) from error
    return _without_wrapper_prefix(state)


def write(path: str | os.PathLike[str], state: Mapping[str, np.ndarray]) -> None:
    """Writes a flat state to `.npz` or `.safetensors`, replacing the file at once or not at all.

    Args:
        path: the file; its suffix decides the format. The directory must exist.
        state: name to array of booleans, integers, floats (bfloat16 is stored as float32) or complex64.

    Raises:
        UserError: the suffix is neither of the two, or the file cannot be written.
        ValueError: a name or a dtype that the two formats cannot hold, or an empty state.
    """
    path = Path(path)
    encoders: dict[str, Callable[[dict[str, np.ndarray]], bytes]] = {
        ".npz": encode_npz,
        ".safetensors": safetensors.numpy.save,
    }
    if path.suffix.lower() not in encoders:
        raise UserError(f"{path}: weights are written to .npz or .safetensors; choose one of these suffixes.")
    content = encoders[path.suffix.lower()](writable(state))
    # In the same directory, because os.replace is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error


def _reader_for(name: str) -> Callable[[Path], dict[str, np.ndarray]]:
    name = name.lower()
    if name.endswith(".safetensors"):
        return read_safetensors
    if name.endswith(".npz"):
        return read_npz
    if name.endswith((".pth", ".pt", ".bin", ".pth.tar")):
        return read_torch
    raise BadFile("has no known suffix; weights are read from .safetensors, .npz, .pth, .pt and .bin files")


def _refuse_impostors(path: Path) -> None:
    """Names what failed downloads leave behind, whatever the suffix."""
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if not head:
        raise BadFile("is empty; fetch or copy the file again")
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BadFile("is a web page, not weights; the download went wrong, fetch it from the right address")
    if head.startswith(b"version https://git-lfs"):
        raise BadFile("is only a Git LFS pointer; run `git lfs pull` to get the weights themselves")


def _without_wrapper_prefix(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in ("module.", "_orig_mod.", "module."):  # the two wrappers can be nested either way
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): array for name, array in state.items()}
    return state
