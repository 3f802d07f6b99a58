"""Reads PyTorch's weight files, zip and legacy."""

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from finetune_jax.files.weight_files.pickle_reader import unpickle
from finetune_jax.files.weight_files.pickle_values import Tensor, stored_dtype
from finetune_jax.files.weight_files.refusals import FETCH_AGAIN, BadFile, memory_budget, widened_bfloat16

# --- torch.save: which dict is the model -------------------------------------------------------------------

_MODEL_KEYS = {
    "model",
    "model_state",
    "model_state_dict",
    "module",
    "net",
    "network",
    "params",
    "state_dict",
    "weights",
}


def _model_state(tree: object) -> dict[str, Tensor]:
    """The dict of tensors that is the model: by its name if that is a usual one, else by its size."""
    candidates = _states_inside(tree)
    usual = {path: state for path, state in candidates.items() if path and _MODEL_KEYS.issuperset(path)}
    ranked = sorted((usual or candidates).items(), key=lambda item: len(item[1]), reverse=True)
    if not ranked:
        raise BadFile("holds no dict of tensors; save the state_dict() of the model")
    # A rival half as large is no accessory (a head, a queue) but another model, or the same one averaged.
    rivals = [path for path, state in ranked if 2 * len(state) >= len(ranked[0][1])]
    if len(rivals) > 1:
        names = ", ".join(repr(".".join(path) or "the top level")[:100] for path in rivals[:8])
        raise BadFile(f"holds several states ({names}); save the one you mean alone in a file")
    return ranked[0][1]


def _states_inside(tree: object) -> dict[tuple[str, ...], dict[str, Tensor]]:
    """Every dict that directly holds tensors, by its path; optimisers and anything deeper than 3 left out."""
    found: dict[tuple[str, ...], dict[str, Tensor]] = {}
    seen: set[int] = set()
    level: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    for _ in range(4):
        deeper = []
        for path, node in level:
            if not isinstance(node, dict) or id(node) in seen or "param_groups" in node:
                continue
            seen.add(id(node))
            named = {key: value for key, value in node.items() if isinstance(key, str)}
            tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
            if tensors:
                found[path] = tensors
            deeper += [((*path, key), value) for key, value in named.items()]
        level = deeper
    return found


# --- torch.save: the containers ----------------------------------------------------------------------------

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.pth`` or ``.pt`` file by name, of the zip or the legacy format."""
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return _read_torch_zip(path)
    if head[257:262] == b"ustar":
        raise BadFile(
            "is a tar archive; unpack it or, if an early torch made it, load it there and torch.save it again"
        )
    if head.startswith(b"\x80"):
        return _read_torch_legacy(path)
    raise BadFile("is not a file of torch.save; check that it is the right one and complete")


def _read_torch_zip(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise BadFile("is a zip archive, but not one of torch.save")
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}constants.pkl" in names:
                raise BadFile("is a TorchScript program; save the state_dict() of the model instead")
            # torch.save never compresses. Stored members cannot be larger than the file: no zip bombs.
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise BadFile("was compressed after torch.save wrote it; unpack it and pack it without")
            byte_order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
            if byte_order not in (b"little", b"big"):
                raise BadFile(FETCH_AGAIN)
            tree, _ = unpickle(io.BytesIO(archive.read(pickles[0])))
            return _arrays(
                _model_state(tree),
                lambda key: archive.read(f"{root}data/{key}"),
                big_endian=byte_order == b"big",
                budget=memory_budget(path),
            )
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError, RuntimeError) as error:
        raise BadFile(FETCH_AGAIN) from error


def _read_torch_legacy(path: Path) -> dict[str, np.ndarray]:
    """Magic number, protocol version, system, tree and storage keys as pickles, then the storages.

    A storage is the count of its elements, int64, and the elements.
    """
    content = path.read_bytes()
    stream = io.BytesIO(content)
    magic, _ = unpickle(stream)
    if magic != _LEGACY_MAGIC:
        raise BadFile("is a pickle, but not one of torch.save; save a state_dict() with torch.save")
    version, _ = unpickle(stream)
    system, _ = unpickle(stream)
    if version != _LEGACY_PROTOCOL or not isinstance(system, dict):
        raise BadFile("has an unknown version of the old torch format; torch.load and save it again")
    if system.get("little_endian") is not True:
        raise BadFile(
            "comes from a big-endian machine in the old torch format; save it again with a new torch"
        )
    tree, storages = unpickle(stream)
    keys, _ = unpickle(stream)
    item_sizes: dict[object, int] = {}
    for storage in storages:  # the first mention of a storage is the one that torch.save counts by
        item_sizes.setdefault(storage.key, stored_dtype(storage.dtype).itemsize)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in item_sizes for key in keys):
        raise BadFile(FETCH_AGAIN)
    windows: dict[str, memoryview] = {}
    position = stream.tell()
    for key in keys:
        start = position + 8
        count = int.from_bytes(content[position:start], "little", signed=True)
        position = start + count * item_sizes[key]
        if count < 0 or position > len(content):
            raise BadFile(FETCH_AGAIN)
        windows[key] = memoryview(content)[start:position]
    try:
        return _arrays(_model_state(tree), windows.__getitem__, big_endian=False, budget=memory_budget(path))
    except (KeyError, ValueError) as error:
        raise BadFile(FETCH_AGAIN) from error


def _arrays(
    state: dict[str, Tensor],
    load: Callable[[str], bytes | memoryview],
    *,
    big_endian: bool,
    budget: int,
) -> dict[str, np.ndarray]:
    """Copies of the tensors as arrays.

    Args:
        state: name to tensor.
        load: the bytes of a storage, by its key.
        big_endian: byte order of the storages.
        budget: bytes that the tensors may take together.

    Raises:
        BadFile: a storage is shorter than it was said to be, or the tensors exceed the budget.
    """
    sizes = (math.prod(tensor.size) * _result_dtype(tensor.dtype).itemsize for tensor in state.values())
    if sum(sizes) > budget:
        raise BadFile("unpacks to absurdly much more than its own size; it is refused")
    by_storage: dict[str, list[str]] = {}
    for name, tensor in state.items():
        by_storage.setdefault(tensor.storage.key, []).append(name)
    arrays: dict[str, np.ndarray] = {}
    for key, names in by_storage.items():
        content = memoryview(load(key))
        for name in names:
            arrays[name] = _array(state[name], content, big_endian)
    return {name: arrays[name] for name in state}


def _result_dtype(dtype: str) -> np.dtype:
    return np.dtype("f4" if dtype == "bfloat16" else dtype)


def _array(tensor: Tensor, content: memoryview, big_endian: bool) -> np.ndarray:
    """Copy of one tensor; `_tensor` has checked that it stays inside of its storage."""
    item_size = stored_dtype(tensor.storage.dtype).itemsize
    start = tensor.storage.start * item_size
    end = start + tensor.storage.numel * item_size
    if end > len(content):
        raise BadFile(FETCH_AGAIN)
    if not math.prod(tensor.size):
        return np.empty(tensor.size, _result_dtype(tensor.dtype))
    stored = stored_dtype(tensor.dtype).newbyteorder(">" if big_endian else "<")
    elements = np.frombuffer(content[start:end], stored, count=(end - start) // stored.itemsize)[
        tensor.offset :
    ]
    # The stride of an axis of one element is arbitrary, and NumPy would refuse a large one.
    strides = [
        step * stored.itemsize if length > 1 else 0
        for length, step in zip(tensor.size, tensor.stride, strict=True)
    ]
    view = np.lib.stride_tricks.as_strided(elements, tensor.size, strides, writeable=False)
    if tensor.dtype == "bfloat16":
        return widened_bfloat16(view)
    return np.array(view, dtype=tensor.dtype, order="C")
