"""Convolutions of oneDNN, through its C interface: images in memory as NHWC, kernels as HWIO, float32.

oneDNN (Apache 2.0) is what PyTorch convolves with on CPU. The wheel ``onednn-cpu-gomp`` is its build for x86-64
Linux; where it is not installed, or lacks a library of the system (GNU OpenMP), :func:`load` says so by None.
Functions, structures and numbers are those of its version 3, https://uxlfoundation.github.io/oneDNN/v3.2/.
"""

import contextlib
import ctypes
import dataclasses
import functools
import importlib.metadata
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

_DISTRIBUTION = "onednn-cpu-gomp"
_FILE = "libdnnl.so.3"

# How long OpenMP's threads wait in a loop for more work: over the microseconds between two primitives of a call,
# and no longer, for XLA's threads want the cores. Values that the user has set stay.
_WAITING = {"GOMP_SPINCOUNT": "1000"}

# Of dnnl_types.h, which fixes them for all versions 3.
_CPU, _IN_ORDER, _FLOAT32, _ANY_FORMAT, _USER_SCRATCHPAD = 1, 1, 3, 1, 1
_FORWARD_TRAINING, _DIRECT = 64, 1
_WEIGHTS, _DIFF_WEIGHTS, _SCRATCHPAD_MEMORY = 131, 132, 136  # queries
_SOURCE, _RESULT, _KERNEL, _SCRATCHPAD = 1, 17, 33, 80  # arguments of a primitive
_SOURCE_GRADIENT, _RESULT_GRADIENT, _KERNEL_GRADIENT = 129, 145, 161
# Elements of kernels that are reordered by one thread: to wake another takes 0.05 ms.
_LARGE_KERNEL = 2**17
_ALIGNMENT = 64  # bytes, a line of the cache

Kind = Literal["forward", "by_input", "by_kernel"]
KINDS: tuple[Kind, ...] = ("forward", "by_input", "by_kernel")
_ROLES = {  # of images, kernel and outputs
    "forward": (_SOURCE, _KERNEL, _RESULT),
    "by_input": (_SOURCE_GRADIENT, _KERNEL, _RESULT_GRADIENT),
    "by_kernel": (_SOURCE, _KERNEL_GRADIENT, _RESULT_GRADIENT),
}
_Handle = ctypes.c_void_p


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Shapes of a convolution of ``images [B, H, W, I]`` with ``kernel [h, w, I / groups, O]``."""

    images: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int
    pads: tuple[tuple[int, int], tuple[int, int]]
    groups: int = 1

    @property
    def outputs(self) -> tuple[int, ...]:
        """``[B, H', W', O]``"""
        height, width = (
            (pixels + low + high - taps) // self.stride + 1
            for pixels, taps, (low, high) in zip(self.images[1:3], self.kernel[:2], self.pads, strict=True)
        )
        return (self.images[0], height, width, self.kernel[3])


class OneDNNError(RuntimeError):
    """A call into the library failed."""


class _Argument(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("memory", _Handle))


class Library:
    """The loaded library with an engine and a stream of its own. Its primitives must not run at the same time."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._functions = ctypes.CDLL(os.fspath(path))
        self._functions.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        self._functions.dnnl_primitive_desc_query_md.restype = _Handle
        self._engine = self._create("engine_create", ctypes.c_int(_CPU), ctypes.c_size_t(0))
        self._stream = self._create("stream_create", self._engine, ctypes.c_uint(_IN_ORDER))
        self._attributes = self._create("primitive_attr_create")
        self._check(
            self._functions.dnnl_primitive_attr_set_scratchpad_mode(
                self._attributes, ctypes.c_int(_USER_SCRATCHPAD)
            )
        )
        self._scratch, self._scratch_address = np.empty(0, np.uint8), 0

    def description(self, kind: Kind, convolution: Convolution) -> _Handle:
        """What the library would run.

        Raises:
            OneDNNError: it has nothing for these shapes.
        """
        images, results = _nhwc(convolution.images), _nhwc(convolution.outputs)
        source, result = (self._memory_description(*layout) for layout in (images, results))
        sizes, _ = _hwio(convolution)
        kernel = self._create(
            "memory_desc_create_with_tag",
            ctypes.c_int(len(sizes)),
            _int64(sizes),
            ctypes.c_int(_FLOAT32),
            ctypes.c_int(_ANY_FORMAT),
        )
        (top, bottom), (left, right) = convolution.pads
        strides, dilations = _int64((convolution.stride,) * 2), _int64((0, 0))
        window = (strides, dilations, _int64((top, left)), _int64((bottom, right)))
        direct = ctypes.c_int(_DIRECT)
        forward = self._create(
            "convolution_forward_primitive_desc_create",
            self._engine,
            ctypes.c_int(_FORWARD_TRAINING),
            direct,
            source,
            kernel,
            None,
            result,
            *window,
            self._attributes,
        )
        if kind == "forward":
            return forward
        tensors: tuple[_Handle | None, ...] = (source, kernel, result)
        name = "convolution_backward_data_primitive_desc_create"
        if kind == "by_kernel":
            name, tensors = (
                "convolution_backward_weights_primitive_desc_create",
                (source, kernel, None, result),
            )
        return self._create(name, self._engine, direct, *tensors, *window, forward, self._attributes)

    def primitive(self, kind: Kind, convolution: Convolution) -> Callable[[int, int, int], None]:
        """A function of three addresses, which lie in memory as the shapes say.

        ``forward(images, kernel, outputs)``, ``by_input(gradient, kernel, gradient_of_images)`` and
        ``by_kernel(images, gradient, gradient_of_kernel)``; the last is written.

        Raises:
            OneDNNError: the library has nothing for these shapes.
        """
        description = self.description(kind, convolution)
        blocked = self._query(description, _DIFF_WEIGHTS if kind == "by_kernel" else _WEIGHTS)
        plain = self._memory_description(*_hwio(convolution))
        scratchpad = self._query(description, _SCRATCHPAD_MEMORY)
        images, outputs = (
            self._memory(self._memory_description(*_nhwc(shape)))
            for shape in (convolution.images, convolution.outputs)
        )
        kernel, blocks, scratch = map(self._memory, (plain, blocked, scratchpad))
        convolve = self._execution(
            self._create("primitive_create", description),
            (
                *zip(_ROLES[kind], (images, blocks, outputs), strict=True),
                (_SCRATCHPAD, scratch),
            ),
        )
        # The library wants kernels in blocks of channels.
        with self._threads(1 if math.prod(convolution.kernel) < _LARGE_KERNEL else None):
            if kind == "by_kernel":
                steps = (convolve, self._reordering(blocked, plain, blocks, kernel))
            else:
                steps = (self._reordering(plain, blocked, kernel, blocks), convolve)
        first, second, third = {
            "forward": (images, kernel, outputs),
            "by_input": (outputs, kernel, images),
            "by_kernel": (images, outputs, kernel),
        }[kind]
        size_of_blocks, size_of_scratch = (
            -(-self._functions.dnnl_memory_desc_get_size(memory) // _ALIGNMENT) * _ALIGNMENT
            for memory in (blocked, scratchpad)
        )
        place = self._functions.dnnl_memory_set_data_handle

        def run(first_address: int, second_address: int, third_address: int) -> None:
            reserved = self._reserve(size_of_blocks + size_of_scratch)
            place(first, _Handle(first_address))
            place(second, _Handle(second_address))
            place(third, _Handle(third_address))
            place(blocks, _Handle(reserved))
            place(scratch, _Handle(reserved + size_of_blocks))
            for step in steps:
                step()

        return run

    def _reordering(
        self, source: _Handle, target: _Handle, taken: _Handle, given: _Handle
    ) -> Callable[[], None]:
        description = self._create(
            "reorder_primitive_desc_create", source, self._engine, target, self._engine, None
        )
        return self._execution(
            self._create("primitive_create", description), ((_SOURCE, taken), (_RESULT, given))
        )

    @contextlib.contextmanager
    def _threads(self, count: int | None) -> Iterator[None]:
        """Primitives that are created inside use as many threads; None is the usual number."""
        usual = self._functions.omp_get_max_threads()
        self._functions.omp_set_num_threads(ctypes.c_int(count or usual))
        try:
            yield
        finally:
            self._functions.omp_set_num_threads(ctypes.c_int(usual))

    def _execution(self, primitive: _Handle, arguments: Sequence[tuple[int, _Handle]]) -> Callable[[], None]:
        array = (_Argument * len(arguments))(*(_Argument(kind, memory) for kind, memory in arguments))
        count, execute = ctypes.c_int(len(arguments)), self._functions.dnnl_primitive_execute
        return lambda: self._check(execute(primitive, self._stream, count, array))

    def _reserve(self, size: int) -> int:
        """Address of ``size`` bytes, the same for all primitives: only one runs at a time."""
        if len(self._scratch) < size + _ALIGNMENT:
            self._scratch = np.empty(size + _ALIGNMENT, np.uint8)
            self._scratch_address = -(-self._scratch.ctypes.data // _ALIGNMENT) * _ALIGNMENT
        return self._scratch_address

    def _memory(self, description: _Handle) -> _Handle:
        return self._create("memory_create", description, self._engine, None)

    def _memory_description(self, sizes: Sequence[int], strides: Sequence[int]) -> _Handle:
        return self._create(
            "memory_desc_create_with_strides",
            ctypes.c_int(len(sizes)),
            _int64(sizes),
            ctypes.c_int(_FLOAT32),
            _int64(strides),
        )

    def _query(self, description: _Handle, what: int) -> _Handle:
        return _Handle(
            self._functions.dnnl_primitive_desc_query_md(description, ctypes.c_int(what), ctypes.c_int(0))
        )

    def _create(self, name: str, *arguments: object) -> _Handle:
        created = _Handle()
        self._check(getattr(self._functions, f"dnnl_{name}")(ctypes.byref(created), *arguments))
        return created

    def _check(self, status: int) -> None:
        if status:
            raise OneDNNError(f"oneDNN answered with status {status}")


@functools.cache
def load() -> Library | None:
    """The installed library, or None."""
    try:
        files = importlib.metadata.distribution(_DISTRIBUTION).files or ()
        path = next(os.fspath(file.locate()) for file in files if file.name == _FILE)
        with _environment(_WAITING):
            return Library(path)
    except (importlib.metadata.PackageNotFoundError, StopIteration, OSError, AttributeError, OneDNNError):
        return None


@contextlib.contextmanager
def _environment(defaults: dict[str, str]) -> Iterator[None]:
    """Variables that libraries read while they are loaded; those that are set keep their values."""
    missing = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def _nhwc(shape: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Sizes in the library's order, batch and channels first, and how far apart neighbours lie."""
    batch, height, width, channels = shape
    return (batch, channels, height, width), (height * width * channels, 1, width * channels, channels)


def _hwio(convolution: Convolution) -> tuple[Sequence[int], Sequence[int]]:
    height, width, inputs, outputs = convolution.kernel
    sizes: tuple[int, ...] = (outputs, inputs, height, width)
    strides: tuple[int, ...] = (1, outputs, width * inputs * outputs, inputs * outputs)
    if convolution.groups > 1:
        per_group = outputs // convolution.groups
        sizes, strides = (convolution.groups, per_group, *sizes[1:]), (per_group, *strides)
    return sizes, strides


def _int64(values: Sequence[int]) -> ctypes.Array:
    return (ctypes.c_int64 * len(values))(*values)
