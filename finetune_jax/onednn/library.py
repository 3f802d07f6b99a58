"""Convolutions of oneDNN, through its C interface: images in memory as NHWC, kernels as HWIO.

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

# Of dnnl_types.h and dnnl_common_types.h, which fix them for all versions 3.
_CPU, _IN_ORDER, _ANY_FORMAT, _USER_SCRATCHPAD = 1, 1, 1, 1
_FORWARD_TRAINING, _DIRECT = 64, 1
_TYPES = {"bfloat16": 2, "float32": 3}
_BFLOAT16_INSTRUCTIONS = (0x1F, 0xE7)  # avx2_vnni_2, avx512_core_bf16
_NAME, _WEIGHTS, _DIFF_WEIGHTS, _SCRATCHPAD_MEMORY = 8, 131, 132, 136  # queries
_SOURCE, _RESULT, _KERNEL, _SCRATCHPAD = 1, 17, 33, 80  # arguments of a primitive
_SOURCE_GRADIENT, _RESULT_GRADIENT, _KERNEL_GRADIENT = 129, 145, 161
_OPERAND_OF_STEP = 32768  # times the number of the step, from 1, plus 2
_ADD, _MULTIPLY, _RELU, _CLIP = 0x1FFF0, 0x1FFF1, 0x20, 0x2E
# Elements of kernels that are reordered by one thread: to wake another takes 0.05 ms. Larger 1×1 kernels stay as
# they are, in products of matrices, which read them in place.
_LARGE_KERNEL = 2**17
# Of its implementations, the library prefers those that multiply small matrices. Where a pixel has fewer channels
# than this, the direct ones are faster, most of all for input gradients of strides: in bfloat16 of depthwise
# convolutions by a factor of 100 (docs/performance.md). One of them, brgdmm_dw, is made for depthwise ones and stays.
_FEW_CHANNELS, _FEW_CHANNELS_STRIDED = 64, 128
_SMALL_PRODUCTS, _DIRECT_KERNELS = ("brgconv", "brg_fwd"), "jit"
_ALIGNMENT = 64  # bytes, a line of the cache
_USUAL_SCRATCH = 64 << 20  # bytes, more than networks usually need

Kind = Literal["forward", "by_input", "by_kernel"]
KINDS: tuple[Kind, ...] = ("forward", "by_input", "by_kernel")
Activation = Literal["none", "relu", "relu6"]
_ROLES = {  # of images, kernel and outputs
    "forward": (_SOURCE, _KERNEL, _RESULT),
    "by_input": (_SOURCE_GRADIENT, _KERNEL, _RESULT_GRADIENT),
    "by_kernel": (_SOURCE, _KERNEL_GRADIENT, _RESULT_GRADIENT),
}
_Handle = ctypes.c_void_p
_Layout = tuple[Sequence[int], Sequence[int]]  # sizes, and how far apart neighbours lie


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Shapes of a convolution of ``images [B, H, W, I]`` with ``kernel [h, w, I / groups, O]``, and their type."""

    images: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int
    pads: tuple[tuple[int, int], tuple[int, int]]
    groups: int = 1
    dtype: str = "float32"

    @property
    def outputs(self) -> tuple[int, ...]:
        """``[B, H', W', O]``"""
        height, width = (
            (pixels + low + high - taps) // self.stride + 1
            for pixels, taps, (low, high) in zip(self.images[1:3], self.kernel[:2], self.pads, strict=True)
        )
        return (self.images[0], height, width, self.kernel[3])


@dataclasses.dataclass(frozen=True)
class Finish:
    """What becomes of a sum before it is stored: ``activation(sum · factor + offset [+ residual])``.

    ``factor [O]`` and ``offset [O]`` are float32, ``residual`` is like the outputs.
    """

    activation: Activation = "none"
    residual: bool = False


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
        self._scratch, self._scratch_address = np.empty(0, np.uint8), 0
        # Only addresses until it is used. What grew during the first step of a run would lie behind the step's memory
        # and keep the second step from its place, which then takes as much again (docs/performance.md).
        self._reserve(_USUAL_SCRATCH)

    def has_type(self, dtype: str) -> bool:
        """Whether the processor multiplies numbers of this type by instructions of its own."""
        instructions = self._functions.dnnl_get_effective_cpu_isa()
        native = any(instructions & needed == needed for needed in _BFLOAT16_INSTRUCTIONS)
        return dtype == "float32" or (dtype == "bfloat16" and native)

    def description(self, kind: Kind, convolution: Convolution, finish: Finish | None = None) -> _Handle:
        """What the library would run.

        Raises:
            OneDNNError: it has nothing for these shapes, or nothing but its slow reference.
        """
        describe = self._product if _is_product(convolution) else self._window
        attributes = self._attributes(convolution, finish)
        description = describe(kind, convolution, attributes)
        if _has_few_channels(kind, convolution):
            direct = describe(kind, convolution, attributes)
            while (name := self._name(direct)).startswith(_SMALL_PRODUCTS):
                if self._functions.dnnl_primitive_desc_next_impl(direct):
                    break
            if name.startswith(_DIRECT_KERNELS) and _instructions(name) == _instructions(
                self._name(description)
            ):
                description = direct
        if self._name(description).startswith("ref"):
            raise OneDNNError(f"oneDNN has only its reference for {convolution}")
        return description

    def _name(self, description: _Handle) -> str:
        """Of the implementation, such as ``jit_dw:avx512_core``."""
        name = ctypes.c_char_p(b"")
        self._check(
            self._functions.dnnl_primitive_desc_query(
                description, ctypes.c_int(_NAME), ctypes.c_int(0), ctypes.byref(name)
            )
        )
        return (name.value or b"").decode()

    def primitive(
        self, kind: Kind, convolution: Convolution, finish: Finish | None = None
    ) -> Callable[..., None]:
        """A function of addresses, which lie in memory as the shapes say.

        ``forward(images, kernel, outputs)``, ``by_input(gradient, kernel, gradient_of_images)`` and
        ``by_kernel(images, gradient, gradient_of_kernel)``; the last is written. What ``finish`` needs, of forward
        alone, comes before it: ``forward(images, kernel, factor, offset, [residual,] outputs)``.

        Raises:
            OneDNNError: the library has nothing for these shapes.
        """
        description = self.description(kind, convolution, finish)
        scratchpad = self._query(description, _SCRATCHPAD_MEMORY)
        scratch = self._memory(scratchpad)
        reserved = [(scratch, self._size(scratchpad))]
        finishing = [self._memory(layout) for layout in self._finishing(convolution, finish)]
        further = [
            (_SCRATCHPAD, scratch),
            *((_OPERAND_OF_STEP * step + 2, memory) for step, memory in enumerate(finishing, start=1)),
        ]
        primitive = self._create("primitive_create", description)
        if _is_product(convolution):
            first, second, third = map(self._memory, self._matrices(kind, convolution))
            arguments = ((_SOURCE, first), (_KERNEL, second), (_RESULT, third), *further)
            steps: tuple[Callable[[], None], ...] = (self._execution(primitive, arguments),)
        else:
            blocked = self._query(description, _DIFF_WEIGHTS if kind == "by_kernel" else _WEIGHTS)
            plain = self._memory_description(*_hwio(convolution), convolution.dtype)
            images, outputs = (
                self._memory(self._memory_description(*_nhwc(shape), convolution.dtype))
                for shape in (convolution.images, convolution.outputs)
            )
            kernel, blocks = map(self._memory, (plain, blocked))
            reserved.append((blocks, self._size(blocked)))
            roles = zip(_ROLES[kind], (images, blocks, outputs), strict=True)
            convolve = self._execution(primitive, (*roles, *further))
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
        operands = (first, second, *finishing, third)
        place = self._functions.dnnl_memory_set_data_handle

        def run(*addresses: int) -> None:
            at = self._reserve(sum(size for _, size in reserved))
            for memory, size in reserved:
                place(memory, _Handle(at))
                at += size
            for memory, address in zip(operands, addresses, strict=True):
                place(memory, _Handle(address))
            for step in steps:
                step()

        return run

    def _product(self, kind: Kind, convolution: Convolution, attributes: _Handle) -> _Handle:
        left, right, result = self._matrices(kind, convolution)
        return self._create(
            "matmul_primitive_desc_create", self._engine, left, right, None, result, attributes
        )

    def _matrices(self, kind: Kind, convolution: Convolution) -> tuple[_Handle, ...]:
        """Of a product that is a 1×1 convolution: left, right and result."""
        pixels, (inputs, channels) = math.prod(convolution.images[:3]), convolution.kernel[2:]
        images, kernel, outputs = (
            ((rows, columns), (columns, 1))
            for rows, columns in ((pixels, inputs), (inputs, channels), (pixels, channels))
        )
        matrices = {
            "forward": (images, kernel, outputs),
            "by_input": (outputs, _transposed(kernel), images),
            "by_kernel": (_transposed(images), outputs, kernel),
        }[kind]
        return tuple(self._memory_description(*matrix, convolution.dtype) for matrix in matrices)

    def _window(self, kind: Kind, convolution: Convolution, attributes: _Handle) -> _Handle:
        images, results = _nhwc(convolution.images), _nhwc(convolution.outputs)
        source, result = (
            self._memory_description(*layout, convolution.dtype) for layout in (images, results)
        )
        sizes, _ = _hwio(convolution)
        kernel = self._create(
            "memory_desc_create_with_tag",
            ctypes.c_int(len(sizes)),
            _int64(sizes),
            ctypes.c_int(_TYPES[convolution.dtype]),
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
            attributes,
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
        return self._create(name, self._engine, direct, *tensors, *window, forward, attributes)

    def _attributes(self, convolution: Convolution, finish: Finish | None) -> _Handle:
        attributes = self._create("primitive_attr_create")
        self._check(
            self._functions.dnnl_primitive_attr_set_scratchpad_mode(
                attributes, ctypes.c_int(_USER_SCRATCHPAD)
            )
        )
        if finish is None:
            return attributes
        steps = self._create("post_ops_create")
        for operation, operand in zip(
            (_MULTIPLY, _ADD, _ADD), self._finishing(convolution, finish), strict=False
        ):
            self._check(self._functions.dnnl_post_ops_append_binary(steps, ctypes.c_int(operation), operand))
        if finish.activation != "none":
            kind = _RELU if finish.activation == "relu" else _CLIP
            bounds = ctypes.c_float(0), ctypes.c_float(6 if finish.activation == "relu6" else 0)
            self._check(self._functions.dnnl_post_ops_append_eltwise(steps, ctypes.c_int(kind), *bounds))
        self._check(self._functions.dnnl_primitive_attr_set_post_ops(attributes, steps))
        return attributes

    def _finishing(self, convolution: Convolution, finish: Finish | None) -> list[_Handle]:
        """Of factor, offset and residual, in as many dimensions as the outputs have for the library."""
        if finish is None:
            return []
        channels = convolution.outputs[3]
        vector: _Layout = (1, channels, 1, 1), (channels, 1, 1, 1)
        residual = _nhwc(convolution.outputs)
        if _is_product(convolution):
            pixels = math.prod(convolution.outputs[:3])
            vector, residual = ((1, channels), (channels, 1)), ((pixels, channels), (channels, 1))
        layouts = [self._memory_description(*vector, "float32") for _ in range(2)]
        return layouts + [self._memory_description(*residual, convolution.dtype)] * finish.residual

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

    def _memory_description(self, sizes: Sequence[int], strides: Sequence[int], dtype: str) -> _Handle:
        return self._create(
            "memory_desc_create_with_strides",
            ctypes.c_int(len(sizes)),
            _int64(sizes),
            ctypes.c_int(_TYPES[dtype]),
            _int64(strides),
        )

    def _size(self, description: _Handle) -> int:
        """Bytes, up to where the next array may start."""
        return -(-self._functions.dnnl_memory_desc_get_size(description) // _ALIGNMENT) * _ALIGNMENT

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


def _is_product(convolution: Convolution) -> bool:
    """Whether it is run as a product of matrices."""
    one_pixel = convolution.kernel[:2] == (1, 1) and convolution.stride == 1
    whole = convolution.groups == 1 and convolution.pads == ((0, 0), (0, 0))
    return one_pixel and whole and math.prod(convolution.kernel) >= _LARGE_KERNEL


def _has_few_channels(kind: Kind, convolution: Convolution) -> bool:
    strided = kind == "by_input" and convolution.stride > 1
    per_group = convolution.kernel[2]
    windows = convolution.kernel[:2] != (1, 1)  # 1×1 kernels are products anyway
    return windows and per_group < (_FEW_CHANNELS_STRIDED if strided else _FEW_CHANNELS)


def _instructions(name: str) -> str:
    """Those that an implementation uses, by its name."""
    return name.rpartition(":")[2]


def _transposed(matrix: _Layout) -> _Layout:
    (rows, columns), (down, right) = matrix
    return (columns, rows), (right, down)


def _nhwc(shape: Sequence[int]) -> _Layout:
    """In the library's order, batch and channels first."""
    batch, height, width, channels = shape
    return (batch, channels, height, width), (height * width * channels, 1, width * channels, channels)


def _hwio(convolution: Convolution) -> _Layout:
    height, width, inputs, outputs = convolution.kernel
    sizes: tuple[int, ...] = (outputs, inputs, height, width)
    strides: tuple[int, ...] = (1, outputs, width * inputs * outputs, inputs * outputs)
    if convolution.groups > 1:
        per_group = outputs // convolution.groups
        sizes, strides = (convolution.groups, per_group, *sizes[1:]), (per_group, *strides)
    return sizes, strides


def _int64(values: Sequence[int]) -> ctypes.Array:
    return (ctypes.c_int64 * len(values))(*values)
