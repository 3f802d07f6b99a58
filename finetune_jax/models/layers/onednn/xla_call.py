"""oneDNN's convolutions and attention as operations of XLA programs on CPU.

XLA calls :func:`_handle` through its foreign function interface, whose structures (``xla/ffi/api/c_api.h``, of
jaxlib 0.10 and 0.11: fields were only added at their ends) are laid out here. What is to be computed comes as text
in an attribute, so that a compiled program in the cache means the same in another process.
"""

import concurrent.futures
import ctypes
import functools
import os
import threading
from collections.abc import Callable
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp

from finetune_jax.models.layers.onednn import attention_steps, library
from finetune_jax.models.layers.onednn.descriptions import (
    Activation,
    Attention,
    AttentionKind,
    Convolution,
    Finish,
    Kind,
)

TARGET = "finetune_jax_onednn"
_MAJOR, _MINOR = 0, 3  # of the interface written down here
_METADATA, _INTERNAL_ERROR = 1, 13
_Pointer = ctypes.c_void_p


class _Extension(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("type", ctypes.c_int), ("next", _Pointer))


class _Version(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", _Pointer),
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
    )


class _Metadata(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("version", _Version), ("traits", ctypes.c_uint32))


class _MetadataExtension(ctypes.Structure):
    _fields_ = (("base", _Extension), ("metadata", ctypes.POINTER(_Metadata)))


class _ErrorArguments(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", _Pointer),
        ("message", ctypes.c_char_p),
        ("code", ctypes.c_int),
    )


_CreateError = ctypes.CFUNCTYPE(_Pointer, ctypes.POINTER(_ErrorArguments))


class _Api(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", _Pointer),
        ("version", _Version),
        ("internal", _Pointer),
        ("create_error", _CreateError),
    )


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", _Pointer),
        ("dtype", ctypes.c_int),
        ("data", _Pointer),
    )


class _Text(ctypes.Structure):
    _fields_ = (("start", _Pointer), ("length", ctypes.c_size_t))


class _Buffers(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", _Pointer),
        ("count", ctypes.c_int64),
        ("types", _Pointer),
        ("values", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    )


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", _Pointer),
        ("count", ctypes.c_int64),
        ("types", _Pointer),
        ("names", _Pointer),
        ("values", ctypes.POINTER(ctypes.POINTER(_Text))),
    )


class _Frame(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", ctypes.POINTER(_Extension)),
        ("api", ctypes.POINTER(_Api)),
        ("context", _Pointer),
        ("stage", ctypes.c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    )


# Every thread that enters the library gets OpenMP's threads of its own, as many as there are cores. XLA calls from
# any of its threads, as many again; on large machines all calls therefore come from one. Handing a call over takes
# some 5 % of a step of a narrow network (docs/lab/performance.md).
MOST_CALLING_THREADS = 16

_running = threading.Lock()


@ctypes.CFUNCTYPE(_Pointer, ctypes.POINTER(_Frame))
def _handle(pointer: Any) -> int | None:
    frame = pointer.contents
    if frame.extension and frame.extension.contents.type == _METADATA:
        extension = ctypes.cast(frame.extension, ctypes.POINTER(_MetadataExtension)).contents
        version = extension.metadata.contents.version
        version.major, version.minor = _MAJOR, _MINOR
        return None
    try:
        text = frame.attributes.values[0].contents
        run = _primitive(ctypes.string_at(text.start, text.length))
        inputs, results = frame.arguments, frame.results
        buffers = [
            *(inputs.values[i] for i in range(inputs.count)),
            *(results.values[i] for i in range(results.count)),
        ]
        addresses = [buffer.contents.data for buffer in buffers]
        caller = _caller()
        if caller is None:
            with _running:
                run(*addresses)
        else:
            caller.submit(run, *addresses).result()
    except Exception as error:
        arguments = _ErrorArguments(
            ctypes.sizeof(_ErrorArguments), None, f"{type(error).__name__}: {error}".encode(), _INTERNAL_ERROR
        )
        return frame.api.contents.create_error(ctypes.byref(arguments))
    return None


@functools.cache
def _caller() -> concurrent.futures.Executor | None:
    few = len(os.sched_getaffinity(0)) <= MOST_CALLING_THREADS
    return None if few else concurrent.futures.ThreadPoolExecutor(1, "onednn")


@functools.cache
def _primitive(text: bytes) -> Callable[..., None]:
    loaded = library.load()
    assert loaded is not None
    kind, *words = text.decode().split()
    if kind in get_args(AttentionKind):
        return attention_steps.primitive(loaded, cast(AttentionKind, kind), Attention(*map(int, words)))
    return loaded.primitive(*_read(text.decode()))


def _write(kind: Kind, convolution: Convolution, finish: Finish | None = None) -> str:
    (top, bottom), (left, right) = convolution.pads
    numbers = (*convolution.images, *convolution.kernel, convolution.stride, top, bottom, left, right)
    words = [kind, convolution.dtype, *map(str, numbers), str(convolution.groups)]
    if finish is not None:
        words += [finish.activation, *(["residual"] if finish.residual else [])]
        words += [] if finish.scaled else ["unscaled"]
    return " ".join(words)


def _read(text: str) -> tuple[Kind, Convolution, Finish | None]:
    kind, dtype, *words = text.split()
    b, h, w, i, rows, columns, per_group, o, stride, top, bottom, left, right, groups = map(int, words[:14])
    pads = ((top, bottom), (left, right))
    convolution = Convolution((b, h, w, i), (rows, columns, per_group, o), stride, pads, groups, dtype)
    finish = None
    if words[14:]:
        finish = Finish(cast(Activation, words[14]), "residual" in words, "unscaled" not in words)
    return cast(Kind, kind), convolution, finish


@functools.cache
def _register() -> None:
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(_handle), platform="cpu", api_version=1)


def call(
    kind: Kind, convolution: Convolution, *operands: jax.Array, finish: Finish | None = None
) -> jax.Array:
    """The operation that :meth:`~finetune_jax.onednn.library.Library.primitive` names."""
    shapes = {
        "forward": convolution.outputs,
        "by_input": convolution.images,
        "by_kernel": convolution.kernel,
    }
    _register()
    result = jax.ShapeDtypeStruct(shapes[kind], jnp.dtype(convolution.dtype))
    operation = jax.ffi.ffi_call(TARGET, result, vmap_method="sequential")
    return operation(*operands, convolution=_write(kind, convolution, finish))


def call_attention(kind: AttentionKind, attention: Attention, *operands: jax.Array) -> Any:
    """The operation that :func:`~finetune_jax.onednn.attention_steps.primitive` names; ``keep`` gives two arrays."""
    y, shares, joint = (
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in (attention.outputs, attention.shares, attention.joint)
    )
    results: Any = {"attend": y, "keep": (y, shares), "gradient": joint}[kind]
    _register()
    operation = jax.ffi.ffi_call(TARGET, results, vmap_method="sequential")
    numbers = (attention.images, attention.tokens, attention.heads, attention.channels)
    return operation(*operands, convolution=" ".join([kind, *map(str, numbers)]))
