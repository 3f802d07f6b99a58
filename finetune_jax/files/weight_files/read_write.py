"""Files of weights: reading and writing flat states `{name: array}`.

A state read here has plain string names and owned, C-contiguous arrays in native byte order; bfloat16
becomes float32, which is exact. Nothing in a file is ever executed. That matters for `.pth` files, which are
pickles, that is programs: here a small interpreter (`pickle_reader`) runs only the instructions that build data,
knows a table of what weights are made of (`pickle_values`), puts everything else aside unread, and imports nothing.
Sizes that a file claims are checked against the bytes it has before memory is taken.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from finetune_jax.errors import UserError, readable
from finetune_jax.files import causes
from finetune_jax.files.weight_files import folder
from finetune_jax.files.weight_files.numpy_archive import encode_npz, read_npz, writable
from finetune_jax.files.weight_files.onnx_file import read_onnx
from finetune_jax.files.weight_files.refusals import BadFile
from finetune_jax.files.weight_files.safetensors import read_safetensors
from finetune_jax.files.weight_files.torch_file import read_torch
from finetune_jax.files.whole_file import replace_whole

SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt", ".onnx", ".pth.tar", ".pt.tar")
"""Of files that are read. What is in them decides how, but for `.npz`, `.onnx` and `.safetensors`."""

_OTHER_FORMATS = {
    b"\x89HDF\r\n\x1a\n": "is an HDF5 file (Keras); load it there and save the weights with numpy.savez",
    b"GGUF": "is a GGUF file of a language model, not weights of an image network",
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"Rar!": "is a RAR archive; unpack it first",
    b"7z\xbc\xaf": "is a 7z archive; unpack it first",
    b"\x93NUMPY": "is a single NumPy array; save the arrays by name with numpy.savez",
}


class WeightFile(NamedTuple):
    """What a file of weights holds.

    Attributes:
        state: name to array, in the order of the file.
        entry: of the state in a training checkpoint, such as `state_dict`; empty where it is the whole file.
        others: entries of further states in it that it could be, such as `state_dict_ema`.
    """

    state: dict[str, np.ndarray]
    entry: str = ""
    others: tuple[str, ...] = ()


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The flat state of a file of weights, without a wrapper's prefix; see :func:`read_entry`.

    A `module.` or `_orig_mod.` before every name (`DataParallel`, `torch.compile`) is removed.

    Args:
        path: the file.

    Returns:
        Name to array, in the order of the file.

    Raises:
        UserError: the file is missing, damaged, of another format, ambiguous, or asks for code to be run.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from finetune_jax import weight_files
        >>> file = tempfile.mkdtemp() + "/weights.safetensors"
        >>> weight_files.write(file, {"fc.weight": np.ones((2, 3), np.float32)})
        >>> weight_files.read(file)["fc.weight"].shape
        (2, 3)
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{readable(path)} is a directory; name a file of weights inside it.")
    return _without_wrapper_prefix(read_entry(path).state)


def read_entry(path: str | os.PathLike[str], entry: str = "") -> WeightFile:
    """Reads a flat state from a `.safetensors` or `.npz` file, one of torch, or a folder of such files.

    Both containers of `torch.save` are understood: zip (torch 1.6 on) and the earlier one. If a torch file is
    a training checkpoint, its model state is taken: the nested dict of tensors with one of the usual names
    (`state_dict`, `model`, `net`, ...) or else the largest; optimiser states are passed over.

    Args:
        path: the file, an index of shards (`*.index.json`), or a folder with `model.safetensors`, shards and their
            index, or one file of weights.
        entry: of the state to take, where a training checkpoint holds several; one that it does not have counts as
            none.

    Raises:
        UserError: the file is missing, damaged, of another format, ambiguous, or asks for code to be run.
    """
    path = Path(path)
    try:
        files = folder.weight_files(path, SUFFIXES)
    except BadFile as error:
        raise UserError(f"{readable(path)} {error}.") from error
    contents = [_read_file(file, entry) for file in files]
    if len(contents) == 1:
        return contents[0]
    state: dict[str, np.ndarray] = {}
    for file, content in zip(files, contents, strict=True):
        if twice := state.keys() & content.state.keys():
            raise UserError(
                f"{readable(file)} holds {min(twice)!r}, which another shard beside it holds too."
            )
        state |= content.state
    return WeightFile(state)


def _read_file(path: Path, entry: str) -> WeightFile:
    try:
        if not path.exists():
            place = "" if path.is_absolute() else f" (looked for {readable(path.absolute())})"
            raise BadFile(f"does not exist{place}; check the path")
        if not path.is_file():
            raise BadFile("is no file but a device or a pipe; name a file of weights")
        reader = _reader_for(path)
        content = read_torch(path, entry) if reader is None else WeightFile(reader(path))
        if not content.state:
            raise BadFile("holds no arrays, so there are no weights to take from it")
    except BadFile as error:
        raise UserError(f"{readable(path)} {error}.") from error
    except OSError as error:
        raise UserError(f"{readable(path)} cannot be read: {causes.reason(error)}.") from error
    except MemoryError as error:
        raise UserError(
            f"{readable(path)} asks for more memory than there is; check that it is the right file."
        ) from error
    return WeightFile(*content)


def write(path: str | os.PathLike[str], state: Mapping[str, np.ndarray]) -> None:
    """Writes a flat state to `.npz` or `.safetensors`, replacing the file at once or not at all.

    Args:
        path: the file; its suffix decides the format. The directory must exist.
        state: name to array of booleans, integers, floats (bfloat16 is stored as float32) or complex64.

    Raises:
        UserError: the suffix is neither of the two, or the file cannot be written.
        ValueError: a name or a dtype that the two formats cannot hold, or an empty state.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from finetune_jax import weight_files
        >>> file = tempfile.mkdtemp() + "/weights.safetensors"
        >>> weight_files.write(file, {"fc.weight": np.ones((2, 3), np.float32)})
        >>> weight_files.read(file)["fc.weight"].shape
        (2, 3)
    """
    path = Path(path)
    encoders: dict[str, Callable[[dict[str, np.ndarray]], bytes]] = {
        ".npz": encode_npz,
        ".safetensors": safetensors.numpy.save,
    }
    if path.suffix.lower() not in encoders:
        raise UserError(f"{path}: weights are written to .npz or .safetensors; choose one of these suffixes.")
    content = encoders[path.suffix.lower()](writable(state))
    try:
        replace_whole(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error


def _reader_for(path: Path) -> Callable[[Path], dict[str, np.ndarray]] | None:
    """The reader of a file, None for that of torch: by its suffix where that says all, else by its first bytes."""
    name = path.name.lower()
    suffixes = {".safetensors": read_safetensors, ".npz": read_npz, ".onnx": read_onnx}
    known = name.endswith(SUFFIXES)
    with path.open("rb") as file:
        head = file.read(512)
    if known or head.startswith(tuple(_OTHER_FORMATS)):
        _refuse_impostors(head)
    if path.suffix.lower() in suffixes:
        return suffixes[path.suffix.lower()]
    # A length, 64 bits, and a JSON object of that length.
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8:
        return read_safetensors
    if known or head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x8a")):
        return None
    raise BadFile(f"has no known suffix; weights are read from {', '.join(SUFFIXES[:-2])} files")


def _refuse_impostors(head: bytes) -> None:
    """Names what failed downloads leave behind, and other formats, whatever the suffix."""
    for beginning, refusal in _OTHER_FORMATS.items():
        if head.startswith(beginning):
            raise BadFile(refusal)
    head = head.lstrip().lower()
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
