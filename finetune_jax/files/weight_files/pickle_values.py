"""The values that a pickle of weights may hold."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np


class Global(NamedTuple):
    """A name that the pickle asks for, known to one of the tables below. Only a name: never an import."""

    name: str


class Storage(NamedTuple):
    """A window of `numel` elements from `start` on in the storage `key`; dtype as in `STORAGE_TYPES`."""

    key: str
    dtype: str
    start: int
    numel: int


class Tensor(NamedTuple):
    """A strided view of a storage; offset and strides count elements of dtype."""

    storage: Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Unread(NamedTuple):
    """Stands for a value that no state needs, such as a date or a path beside the weights: it is never made.

    Attributes:
        name: of what it was to be made with, as ``"module name"``.
    """

    name: str


# NumPy dtype codes, or "bfloat16".
STORAGE_TYPES = {
    f"{module} {kind}Storage": dtype
    for module in ("torch", "torch.cuda")
    for kind, dtype in {
        "Double": "f8",
        "Float": "f4",
        "Half": "f2",
        "BFloat16": "bfloat16",
        "Long": "i8",
        "Int": "i4",
        "Short": "i2",
        "Char": "i1",
        "Byte": "u1",
        "Bool": "?",
        "ComplexDouble": "c16",
        "ComplexFloat": "c8",
    }.items()
} | {"torch.storage UntypedStorage": "u1"}

# Dtypes younger than the storage types: their tensors lie in untyped storages and name the dtype.
UNTYPED_DTYPES = {"torch uint16": "u2", "torch uint32": "u4", "torch uint64": "u8"}


def is_count(value: object) -> bool:
    """Whether the value is a whole number of at least 0."""
    return type(value) is int and value >= 0


def _rebuild_tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> Tensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without storage")
    return _tensor(storage, storage.dtype, offset, size, stride)


def _rebuild_untyped_tensor(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: object,
    hooks: object,
    dtype: object,
    *_: object,
) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(dtype, Global):
        raise ValueError("a tensor without storage or dtype")
    return _tensor(storage, UNTYPED_DTYPES[dtype.name], offset, size, stride)


def _tensor(storage: Storage, dtype: str, offset: Any, size: Any, stride: Any) -> Tensor:
    """A `Tensor` none of whose elements lies outside of its storage."""
    shaped = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 64
    if not shaped or not all(map(is_count, (offset, *size, *stride))):
        raise ValueError("a tensor with a malformed shape")
    if math.prod(size):
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        bytes_needed = (last + 1) * stored_dtype(dtype).itemsize
        if bytes_needed > storage.numel * stored_dtype(storage.dtype).itemsize:
            raise ValueError("a tensor that reaches beyond its storage")
    return Tensor(storage, dtype, offset, size, stride)


def _rebuild_parameter(data: object, *_: object) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError("a parameter without tensor")
    return data


def _rebuild_dict(items: object = (), *_: object) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    pairs = items.items() if isinstance(items, dict) else items
    if not isinstance(pairs, Iterable):
        raise ValueError("a mapping without items")
    for key, value in pairs:
        set_items(mapping, [key, value])
    return mapping


def _rebuild_size(size: object) -> tuple[Any, ...]:
    if not isinstance(size, list | tuple):
        raise ValueError("a malformed size")
    return tuple(size)


FUNCTIONS: dict[str, Callable[..., object]] = {
    "collections OrderedDict": _rebuild_dict,
    "collections Counter": _rebuild_dict,  # milestones of a learning rate schedule
    "torch Size": _rebuild_size,
    "torch._utils _rebuild_tensor": _rebuild_tensor,  # torch 0.1 to 0.3
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v3": _rebuild_untyped_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch._utils _rebuild_parameter_with_state": _rebuild_parameter,
    "torch.nn.parameter Parameter": _rebuild_parameter,  # torch 0.1 to 0.3
    "collections defaultdict": lambda *_: {},
}


def set_items(mapping: object, items: list[Any]) -> None:
    """Puts `[key, value, key, value, ...]` into a dict; entries with a compound key are dropped.

    Names are strings, so nothing is lost, and hashing a hostile key (tuples a million deep) is not risked.
    """
    if isinstance(mapping, Unread):
        return
    if not isinstance(mapping, dict):
        raise ValueError("items of something that is not a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if key is None or isinstance(key, str | bytes | int | float):
            mapping[key] = value


def extend(sequence: object, items: list[Any]) -> None:
    """Append the items to a list."""
    if isinstance(sequence, Unread):
        return
    if not isinstance(sequence, list):
        raise ValueError("items of something that is not a list")
    sequence.extend(items)


def stored_dtype(dtype: str) -> np.dtype:
    """The NumPy dtype of the bytes as they are stored."""
    # Booleans as bytes, since a byte other than 0 and 1 makes an invalid NumPy boolean.
    return np.dtype({"bfloat16": "u2", "?": "u1"}.get(dtype, dtype))
