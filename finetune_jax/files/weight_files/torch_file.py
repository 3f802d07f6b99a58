"""Reads PyTorch's weight files, zip and legacy."""

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune_jax.errors import DAMAGE, readable
from finetune_jax.files.weight_files.pickle_reader import unpickle
from finetune_jax.files.weight_files.pickle_values import Tensor, Unread, stored_dtype
from finetune_jax.files.weight_files.refusals import FETCH_AGAIN, BadFile, memory_budget, widened_bfloat16

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


class TorchState(NamedTuple):
    """A state of a torch file.

    Attributes:
        state: name to array.
        entry: its path in the file, joined by dots; empty for the top level.
        others: those of further states that are no accessories of it (averaged weights, a teacher).
    """

    state: dict[str, np.ndarray]
    entry: str
    others: tuple[str, ...]


def _model_state(tree: object, entry: str) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Tensor]]:
    """The dict of tensors that is the model: the one asked for, else by its name, else by its size.

    Returns:
        Its path, the paths of further models, and the dict.
    """
    candidates = _states_inside(tree)
    if not candidates:
        if isinstance(tree, Unread):
            raise BadFile(
                f"holds a pickled object of {readable(tree.name.replace(' ', '.', 1), 100)} and no dict of tensors; "
                "nothing of it was run: save its state_dict() alone where it was made"
            )
        raise BadFile("holds no dict of tensors; save the state_dict() of the model")
    ranked = sorted(candidates, key=lambda path: len(candidates[path]), reverse=True)
    asked = [path for path in ranked if entry and entry in (".".join(path), path[-1] if path else "")]
    asked = asked or [path for path in ranked if entry and path and path[0] == entry]
    if asked:
        return asked[0], (), _tensors_only(candidates[asked[0]])
    usual = [path for path in ranked if path and _MODEL_KEYS.issuperset(path)]
    chosen = (usual or ranked)[0]
    # A rival half as large is no accessory (a head, a queue) but another model, or the same one averaged.
    models = [path for path in ranked if 2 * len(candidates[path]) >= len(candidates[chosen])]
    rivals = [path for path in models if path in usual or not usual]
    if len(rivals) > 1:
        names = ", ".join(repr(_joined(path) or "the top level") for path in rivals[:8])
        raise BadFile(
            f"holds several states ({names}); choose one with --weights_entry=NAME, or save the one you mean alone"
        )
    return (
        chosen,
        tuple(_joined(path) for path in models if path != chosen),
        _tensors_only(candidates[chosen]),
    )


def _tensors_only(state: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state, once none of its entries is one in a form that is not understood."""
    for name, value in state.items():
        if isinstance(value, Unread) and value.name.startswith("torch._utils _rebuild"):
            raise BadFile(
                f"holds {readable(name, 80)} by {value.name.replace(' ', '.')}; save it again as a plain tensor"
            )
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _joined(path: tuple[str, ...]) -> str:
    return readable(".".join(path), 100)


def _states_inside(tree: object) -> dict[tuple[str, ...], dict[str, Any]]:
    """Every dict that directly holds tensors, by its path; optimisers and anything deeper than 3 left out."""
    states: dict[tuple[str, ...], dict[str, Any]] = {}
    seen: set[int] = set()
    level: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    for _ in range(4):
        deeper = []
        for path, node in level:
            if not isinstance(node, dict) or id(node) in seen or "param_groups" in node:
                continue
            seen.add(id(node))
            named = {key: value for key, value in node.items() if isinstance(key, str)}
            if any(isinstance(value, Tensor) for value in named.values()):
                states[path] = named
            deeper += [((*path, key), value) for key, value in named.items()]
        level = deeper
    return states


_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def read_torch(path: Path, entry: str = "") -> TorchState:
    """The arrays of a file of ``torch.save`` by name, of the zip or the legacy format.

    Args:
        path: the file.
        entry: of the state to take, where it holds several; one that it does not have counts as none.

    Raises:
        BadFile: it is damaged, something else, ambiguous, or asks for code to be run.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return _read_torch_zip(path, entry)
    if head[257:262] == b"ustar":
        raise BadFile(
            "is a tar archive; unpack it or, if an early torch made it, load it there and torch.save it again"
        )
    if head.startswith(b"\x80"):
        return _read_torch_legacy(path, entry)
    raise BadFile("is not a file of torch.save; check that it is the right one and complete")


def _read_torch_zip(path: Path, entry: str) -> TorchState:
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
            chosen, others, state = _model_state(tree, entry)
            arrays = _arrays(
                state,
                lambda key: archive.read(f"{root}data/{key}"),
                big_endian=byte_order == b"big",
                budget=memory_budget(path),
            )
            return TorchState(arrays, _joined(chosen), others)
    except MemoryError:
        raise
    except DAMAGE as error:
        raise BadFile(FETCH_AGAIN) from error


def _read_torch_legacy(path: Path, entry: str) -> TorchState:
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
        chosen, others, state = _model_state(tree, entry)
        arrays = _arrays(state, windows.__getitem__, big_endian=False, budget=memory_budget(path))
        return TorchState(arrays, _joined(chosen), others)
    except MemoryError:
        raise
    except DAMAGE as error:
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
