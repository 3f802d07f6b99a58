"""Files of weights: reading and writing flat states `{name: array}`.

A state read here has plain string names and owned, C-contiguous arrays in native byte order; bfloat16
becomes float32, which is exact. Nothing in a file is ever executed. That matters for `.pth` files, which are
pickles, that is programs: here a small interpreter runs only the instructions that build data, knows a fixed
table of names (`_FUNCTIONS`, `_STORAGE_TYPES`, `_IGNORED_GLOBALS`) and imports nothing. Sizes that a file
claims are checked against the bytes it has before memory is taken.
"""

import io
import math
import os
import pickletools
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.lib import format as npy

from finetune_jax.errors import UserError

_FETCH_AGAIN = "is damaged or cut short; fetch or copy the file again"


class _BadFile(Exception):
    """The rest of a sentence that begins with the path of the file."""


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
            raise _BadFile("is a directory; name a file of weights inside it")
        if not path.exists():
            raise _BadFile("does not exist; check the path")
        reader = _reader_for(path.name)
        _refuse_impostors(path)
        state = reader(path)
        if not state:
            raise _BadFile("holds no arrays, so there are no weights to take from it")
    except _BadFile as error:
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
        ".npz": _encode_npz,
        ".safetensors": safetensors.numpy.save,
    }
    if path.suffix.lower() not in encoders:
        raise UserError(f"{path}: weights are written to .npz or .safetensors; choose one of these suffixes.")
    content = encoders[path.suffix.lower()](_writable(state))
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
        return _read_safetensors
    if name.endswith(".npz"):
        return _read_npz
    if name.endswith((".pth", ".pt", ".bin", ".pth.tar")):
        return _read_torch
    raise _BadFile("has no known suffix; weights are read from .safetensors, .npz, .pth, .pt and .bin files")


def _refuse_impostors(path: Path) -> None:
    """Names what failed downloads leave behind, whatever the suffix."""
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if not head:
        raise _BadFile("is empty; fetch or copy the file again")
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise _BadFile("is a web page, not weights; the download went wrong, fetch it from the right address")
    if head.startswith(b"version https://git-lfs"):
        raise _BadFile("is only a Git LFS pointer; run `git lfs pull` to get the weights themselves")


def _without_wrapper_prefix(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in ("module.", "_orig_mod.", "module."):  # the two wrappers can be nested either way
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): array for name, array in state.items()}
    return state


def _memory_budget(path: Path) -> int:
    """Bytes that a file may unpack to.

    Far above what weights need (expanded tensors, tied weights, bfloat16 widened, sparse weights compressed),
    far below what a file made to exhaust memory would ask for.
    """
    return 64 * 2**20 + 16 * path.stat().st_size


def _widened_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Float32 of the same shape from the 16 bits of bfloat16: they are the upper half of a float32."""
    wide = np.array(bits, dtype=np.uint32, order="C")
    wide <<= 16
    return wide.view(np.float32)


# --- .npz and .safetensors ---------------------------------------------------------------------------------

_ARRAY_KINDS = "biufc"

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


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    # Not safetensors.numpy.load_file: it knows no bfloat16.
    try:
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise _BadFile(f"is no intact safetensors file ({error}); fetch or copy it again") from error
    state = {}
    for name, entry in entries:
        if entry["dtype"] not in _SAFETENSORS_DTYPES:
            raise _BadFile(f"holds {name!r} as {entry['dtype']}; save it again as float32")
        stored = np.dtype(_SAFETENSORS_DTYPES[entry["dtype"]])
        array = np.frombuffer(entry["data"], dtype=stored).reshape(entry["shape"])
        bfloat16 = entry["dtype"] == "BF16"
        state[name] = _widened_bfloat16(array) if bfloat16 else _native(array)
    return state


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    # Not np.load: it confuses names that end in ".npy", and it unpacks without looking at the size first.
    state = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(not member.filename.endswith(".npy") for member in members):
                raise _BadFile("is a zip archive, but not one of NumPy arrays")
            if any(
                member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members
            ):
                raise _BadFile("is compressed in a way that NumPy does not use; save it with numpy.savez")
            if sum(member.file_size for member in members) > _memory_budget(path):
                raise _BadFile("unpacks to absurdly much more than its own size; it is refused")
            for member in members:
                with archive.open(member) as file:
                    array = npy.read_array(file, allow_pickle=False)
                name = member.filename.removesuffix(".npy")
                if array.dtype.kind not in _ARRAY_KINDS:
                    raise _BadFile(f"holds {name!r} as {array.dtype}; save it again as float32")
                state[name] = _native(array)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())  # NumPy's reasons can have several lines
        raise _BadFile(
            f"is no intact .npz file of plain arrays ({reason}); fetch or save it again"
        ) from error
    return state


def _native(array: np.ndarray) -> np.ndarray:
    return np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "O", "W"])


def _writable(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
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
        if array.dtype.kind not in _ARRAY_KINDS or array.dtype.itemsize > 8:
            raise ValueError(f"{name!r} has dtype {array.dtype}; files of weights hold no such values")
        arrays[name] = _native(array)
    return arrays


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encode_npz(arrays: dict[str, np.ndarray]) -> bytes:
    # Not np.savez: it takes names as keyword arguments ("file" is impossible) and stamps the time into it.
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo()
            member.filename = f"{name}.npy"  # set afterwards: the constructor rewrites path separators
            with archive.open(member, "w", force_zip64=True) as file:
                npy.write_array(file, array, allow_pickle=False)
    return content.getvalue()


# --- torch.save: the pickle inside -------------------------------------------------------------------------


class _Global(NamedTuple):
    """A name that the pickle asks for, known to one of the tables below. Only a name: never an import."""

    name: str


class _Storage(NamedTuple):
    """A window of `numel` elements from `start` on in the storage `key`; dtype as in `_STORAGE_TYPES`."""

    key: str
    dtype: str
    start: int
    numel: int


class _Tensor(NamedTuple):
    """A strided view of a storage; offset and strides count elements of dtype."""

    storage: _Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Ignored:
    """Stands for a value that no state needs, such as a NumPy scalar beside the weights."""


_IGNORED = _Ignored()

# NumPy dtype codes, or "bfloat16".
_STORAGE_TYPES = {
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
_UNTYPED_DTYPES = {"torch uint16": "u2", "torch uint32": "u4", "torch uint64": "u8"}


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _rebuild_tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> _Tensor:
    if not isinstance(storage, _Storage):
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
) -> _Tensor:
    if not isinstance(storage, _Storage) or not isinstance(dtype, _Global):
        raise ValueError("a tensor without storage or dtype")
    return _tensor(storage, _UNTYPED_DTYPES[dtype.name], offset, size, stride)


def _tensor(storage: _Storage, dtype: str, offset: Any, size: Any, stride: Any) -> _Tensor:
    """A `_Tensor` none of whose elements lies outside of its storage."""
    shaped = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 64
    if not shaped or not all(map(_is_count, (offset, *size, *stride))):
        raise ValueError("a tensor with a malformed shape")
    if math.prod(size):
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        bytes_needed = (last + 1) * _stored_dtype(dtype).itemsize
        if bytes_needed > storage.numel * _stored_dtype(storage.dtype).itemsize:
            raise ValueError("a tensor that reaches beyond its storage")
    return _Tensor(storage, dtype, offset, size, stride)


def _rebuild_parameter(data: object, *_: object) -> _Tensor:
    if not isinstance(data, _Tensor):
        raise ValueError("a parameter without tensor")
    return data


def _rebuild_dict(items: object = (), *_: object) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    pairs = items.items() if isinstance(items, dict) else items
    if not isinstance(pairs, Iterable):
        raise ValueError("a mapping without items")
    for key, value in pairs:
        _set_items(mapping, [key, value])
    return mapping


def _rebuild_size(size: object) -> tuple[Any, ...]:
    if not isinstance(size, list | tuple):
        raise ValueError("a malformed size")
    return tuple(size)


_FUNCTIONS: dict[str, Callable[..., object]] = {
    "collections OrderedDict": _rebuild_dict,
    "collections Counter": _rebuild_dict,  # milestones of a learning rate schedule
    "torch Size": _rebuild_size,
    "torch._utils _rebuild_tensor": _rebuild_tensor,  # torch 0.1 to 0.3
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v3": _rebuild_untyped_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch.nn.parameter Parameter": _rebuild_parameter,  # torch 0.1 to 0.3
}

# Usual beside the weights in a checkpoint: best accuracies as NumPy scalars, the command line, the device.
_IGNORED_GLOBALS = {
    "_codecs encode",
    "argparse Namespace",
    "numpy dtype",
    "numpy._core.multiarray scalar",
    "numpy.core.multiarray scalar",
    "torch device",
}


def _global(name: object) -> _Global:
    """The global `"module name"` if it is in a table; anything else is refused by name."""
    if not isinstance(name, str):
        raise ValueError("a global without a name")
    if name in _FUNCTIONS or name in _STORAGE_TYPES or name in _UNTYPED_DTYPES or name in _IGNORED_GLOBALS:
        return _Global(name)
    shown = name[:100].replace(" ", ".", 1)
    if not shown.isprintable():
        shown = repr(shown)
    raise _BadFile(
        f"asks for the Python object {shown}, which no weights need; it is refused and nothing was run: "
        "if the file holds a whole pickled model, save its state_dict() alone where it was made"
    )


def _call(function: object, arguments: object) -> object:
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise ValueError("a call of something that is not a function")
    if function.name in _IGNORED_GLOBALS:
        return _IGNORED
    return _FUNCTIONS[function.name](*arguments)


def _storage(persistent_id: object) -> _Storage:
    """The storage that `("storage", type, key, device, numel[, None | (key, start, numel)])` stands for."""
    if (
        not isinstance(persistent_id, tuple)
        or not 5 <= len(persistent_id) <= 6
        or persistent_id[0] != "storage"
    ):
        raise ValueError("an unknown external object")
    _, kind, key, _, numel, *rest = persistent_id
    if not isinstance(kind, _Global) or not isinstance(key, str) or not _is_count(numel):
        raise ValueError("a malformed storage")
    dtype = _STORAGE_TYPES[kind.name]
    if not rest or rest[0] is None:
        return _Storage(key, dtype, 0, numel)
    _, start, length = rest[0]
    if not _is_count(start) or not _is_count(length) or start + length > numel:
        raise ValueError("a view that reaches beyond its storage")
    return _Storage(key, dtype, start, length)


def _set_items(mapping: object, items: list[Any]) -> None:
    """Puts `[key, value, key, value, ...]` into a dict; entries with a compound key are dropped.

    Names are strings, so nothing is lost, and hashing a hostile key (tuples a million deep) is not risked.
    """
    if not isinstance(mapping, dict):
        raise ValueError("items of something that is not a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if key is None or isinstance(key, str | bytes | int | float):
            mapping[key] = value


def _extend(sequence: object, items: list[Any]) -> None:
    if not isinstance(sequence, list):
        raise ValueError("items of something that is not a list")
    sequence.extend(items)


_LITERALS = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
}


def _unpickle(stream: io.BytesIO) -> tuple[Any, list[_Storage]]:
    """Interprets one pickle (protocols 2 to 5) and leaves the stream behind it.

    Returns:
        The value, made only of scalars, strings, lists, tuples, dicts and the stand-ins of this module; and
        every storage it names, in order of appearance.
    """
    try:
        with warnings.catch_warnings():
            # pickletools decodes refused instructions too, and warns of odd escapes in them.
            warnings.simplefilter("ignore")
            return _interpret(stream)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise _BadFile(_FETCH_AGAIN) from error


def _interpret(stream: io.BytesIO) -> tuple[Any, list[_Storage]]:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages: list[_Storage] = []

    def pop(count: int) -> list[Any]:
        if count > len(stack):
            raise ValueError("the stack is empty")
        values = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return values

    def pop_to_mark() -> list[Any]:
        return pop(len(stack) - marks.pop())

    for instruction, argument, _ in pickletools.genops(stream):
        match instruction.name:
            case literal if literal in _LITERALS:
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]  # type: ignore[index]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])  # type: ignore[index]
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(instruction.name == "NEWTRUE")
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop(int(instruction.name[-1]))))
            case "TUPLE":
                stack.append(tuple(pop_to_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                items = pop(1)
                _extend(stack[-1], items)
            case "APPENDS":
                items = pop_to_mark()
                _extend(stack[-1], items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                items = pop(2)
                _set_items(stack[-1], items)
            case "SETITEMS":
                items = pop_to_mark()
                _set_items(stack[-1], items)
            case "GLOBAL":
                stack.append(_global(argument))
            case "STACK_GLOBAL":
                module, name = pop(2)
                if not isinstance(module, str) or not isinstance(name, str):
                    raise ValueError("a global without a name")
                stack.append(_global(f"{module} {name}"))
            case "REDUCE" | "NEWOBJ":
                function, arguments = pop(2)
                stack.append(_call(function, arguments))
            case "BUILD":
                # Attributes (the _metadata of a state_dict, flags of a Parameter) carry no weights.
                owner, _attributes = pop(2)
                if not isinstance(owner, dict | _Tensor | _Ignored):
                    raise ValueError("attributes of something that has none")
                stack.append(owner)
            case "BINPERSID":
                storages.append(_storage(stack.pop()))
                stack.append(storages[-1])
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop(), storages
            case other:
                raise _BadFile(f"uses the pickle instruction {other}, which no weights need; it is refused")
    raise ValueError("a pickle without an end")


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


def _model_state(tree: object) -> dict[str, _Tensor]:
    """The dict of tensors that is the model: by its name if that is a usual one, else by its size."""
    candidates = _states_inside(tree)
    usual = {path: state for path, state in candidates.items() if path and _MODEL_KEYS.issuperset(path)}
    ranked = sorted((usual or candidates).items(), key=lambda item: len(item[1]), reverse=True)
    if not ranked:
        raise _BadFile("holds no dict of tensors; save the state_dict() of the model")
    # A rival half as large is no accessory (a head, a queue) but another model, or the same one averaged.
    rivals = [path for path, state in ranked if 2 * len(state) >= len(ranked[0][1])]
    if len(rivals) > 1:
        names = ", ".join(repr(".".join(path) or "the top level")[:100] for path in rivals[:8])
        raise _BadFile(f"holds several states ({names}); save the one you mean alone in a file")
    return ranked[0][1]


def _states_inside(tree: object) -> dict[tuple[str, ...], dict[str, _Tensor]]:
    """Every dict that directly holds tensors, by its path; optimisers and anything deeper than 3 left out."""
    found: dict[tuple[str, ...], dict[str, _Tensor]] = {}
    seen: set[int] = set()
    level: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    for _ in range(4):
        deeper = []
        for path, node in level:
            if not isinstance(node, dict) or id(node) in seen or "param_groups" in node:
                continue
            seen.add(id(node))
            named = {key: value for key, value in node.items() if isinstance(key, str)}
            tensors = {key: value for key, value in named.items() if isinstance(value, _Tensor)}
            if tensors:
                found[path] = tensors
            deeper += [((*path, key), value) for key, value in named.items()]
        level = deeper
    return found


# --- torch.save: the containers ----------------------------------------------------------------------------

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return _read_torch_zip(path)
    if head[257:262] == b"ustar":
        raise _BadFile(
            "is a tar archive; unpack it or, if an early torch made it, load it there and torch.save it again"
        )
    if head.startswith(b"\x80"):
        return _read_torch_legacy(path)
    raise _BadFile("is not a file of torch.save; check that it is the right one and complete")


def _read_torch_zip(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise _BadFile("is a zip archive, but not one of torch.save")
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}constants.pkl" in names:
                raise _BadFile("is a TorchScript program; save the state_dict() of the model instead")
            # torch.save never compresses. Stored members cannot be larger than the file: no zip bombs.
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise _BadFile("was compressed after torch.save wrote it; unpack it and pack it without")
            byte_order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
            if byte_order not in (b"little", b"big"):
                raise _BadFile(_FETCH_AGAIN)
            tree, _ = _unpickle(io.BytesIO(archive.read(pickles[0])))
            return _arrays(
                _model_state(tree),
                lambda key: archive.read(f"{root}data/{key}"),
                big_endian=byte_order == b"big",
                budget=_memory_budget(path),
            )
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError, RuntimeError) as error:
        raise _BadFile(_FETCH_AGAIN) from error


def _read_torch_legacy(path: Path) -> dict[str, np.ndarray]:
    """Magic number, protocol version, system, tree and storage keys as pickles, then the storages.

    A storage is the count of its elements, int64, and the elements.
    """
    content = path.read_bytes()
    stream = io.BytesIO(content)
    magic, _ = _unpickle(stream)
    if magic != _LEGACY_MAGIC:
        raise _BadFile("is a pickle, but not one of torch.save; save a state_dict() with torch.save")
    version, _ = _unpickle(stream)
    system, _ = _unpickle(stream)
    if version != _LEGACY_PROTOCOL or not isinstance(system, dict):
        raise _BadFile("has an unknown version of the old torch format; torch.load and save it again")
    if system.get("little_endian") is not True:
        raise _BadFile(
            "comes from a big-endian machine in the old torch format; save it again with a new torch"
        )
    tree, storages = _unpickle(stream)
    keys, _ = _unpickle(stream)
    item_sizes: dict[object, int] = {}
    for storage in storages:  # the first mention of a storage is the one that torch.save counts by
        item_sizes.setdefault(storage.key, _stored_dtype(storage.dtype).itemsize)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in item_sizes for key in keys):
        raise _BadFile(_FETCH_AGAIN)
    windows: dict[str, memoryview] = {}
    position = stream.tell()
    for key in keys:
        start = position + 8
        count = int.from_bytes(content[position:start], "little", signed=True)
        position = start + count * item_sizes[key]
        if count < 0 or position > len(content):
            raise _BadFile(_FETCH_AGAIN)
        windows[key] = memoryview(content)[start:position]
    try:
        return _arrays(_model_state(tree), windows.__getitem__, big_endian=False, budget=_memory_budget(path))
    except (KeyError, ValueError) as error:
        raise _BadFile(_FETCH_AGAIN) from error


def _stored_dtype(dtype: str) -> np.dtype:
    # Booleans as bytes, since a byte other than 0 and 1 makes an invalid NumPy boolean.
    return np.dtype({"bfloat16": "u2", "?": "u1"}.get(dtype, dtype))


def _arrays(
    state: dict[str, _Tensor],
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
        _BadFile: a storage is shorter than it was said to be, or the tensors exceed the budget.
    """
    sizes = (math.prod(tensor.size) * _result_dtype(tensor.dtype).itemsize for tensor in state.values())
    if sum(sizes) > budget:
        raise _BadFile("unpacks to absurdly much more than its own size; it is refused")
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


def _array(tensor: _Tensor, content: memoryview, big_endian: bool) -> np.ndarray:
    """Copy of one tensor; `_tensor` has checked that it stays inside of its storage."""
    item_size = _stored_dtype(tensor.storage.dtype).itemsize
    start = tensor.storage.start * item_size
    end = start + tensor.storage.numel * item_size
    if end > len(content):
        raise _BadFile(_FETCH_AGAIN)
    if not math.prod(tensor.size):
        return np.empty(tensor.size, _result_dtype(tensor.dtype))
    stored = _stored_dtype(tensor.dtype).newbyteorder(">" if big_endian else "<")
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
        return _widened_bfloat16(view)
    return np.array(view, dtype=tensor.dtype, order="C")
