"""Convolutions of oneDNN, through its C interface: images in memory as NHWC, kernels as HWIO.

oneDNN (Apache 2.0) is what PyTorch convolves with on CPU. The wheel ``onednn-cpu-gomp`` is its build for x86-64
Linux; where it is not installed, or lacks a library of the system (GNU OpenMP), :func:`load` says so by None.
Functions, structures and numbers are those of its version 3, https://uxlfoundation.github.io/oneDNN/v3.2/.
"""

import contextlib
import ctypes
import functools
import importlib.metadata
import math
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from finetune_jax.models.layers.onednn.descriptions import (
    DIRECT_KERNELS,
    LARGE_KERNEL,
    SMALL_PRODUCTS,
    Convolution,
    Finish,
    Kind,
    Layout,
    OneDNNError,
    has_few_channels,
    hwio,
    int64,
    is_product,
    nhwc,
    transposed,
)

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
_ADD, _MULTIPLY = 0x1FFF0, 0x1FFF1
_ACTIVATIONS = {
    "relu": (0x20, 0),
    "relu6": (0x2E, 6),
    "gelu": (0x31, 0),
}  # with the second of their parameters
_ALIGNMENT = 64  # bytes, a line of the cache
_USUAL_SCRATCH = 64 << 20  # bytes, more than networks usually need
_ROLES = {  # of images, kernel and outputs
    "forward": (_SOURCE, _KERNEL, _RESULT),
    "by_input": (_SOURCE_GRADIENT, _KERNEL, _RESULT_GRADIENT),
    "by_kernel": (_SOURCE, _KERNEL_GRADIENT, _RESULT_GRADIENT),
}
_Handle = ctypes.c_void_p


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
        # and keep the second step from its place, which then takes as much again (docs/lab/performance.md).
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
        describe = self._product if is_product(convolution) else self._window
        attributes = self._attributes(convolution, finish)
        description = describe(kind, convolution, attributes)
        if has_few_channels(kind, convolution):
            direct = describe(kind, convolution, attributes)
            while (name := self._name(direct)).startswith(SMALL_PRODUCTS):
                if self._functions.dnnl_primitive_desc_next_impl(direct):
                    break
            if name.startswith(DIRECT_KERNELS) and _instructions(name) == _instructions(
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
        alone, comes before it: ``forward(images, kernel, [factor,] offset, [residual,] outputs)``.

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
        if is_product(convolution):
            first, second, third = map(self._memory, self._matrices(kind, convolution))
            arguments = ((_SOURCE, first), (_KERNEL, second), (_RESULT, third), *further)
            steps: tuple[Callable[[], None], ...] = (self._execution(primitive, arguments),)
        else:
            blocked = self._query(description, _DIFF_WEIGHTS if kind == "by_kernel" else _WEIGHTS)
            plain = self._memory_description(*hwio(convolution), convolution.dtype)
            images, outputs = (
                self._memory(self._memory_description(*nhwc(shape), convolution.dtype))
                for shape in (convolution.images, convolution.outputs)
            )
            kernel, blocks = map(self._memory, (plain, blocked))
            reserved.append((blocks, self._size(blocked)))
            roles = zip(_ROLES[kind], (images, blocks, outputs), strict=True)
            convolve = self._execution(primitive, (*roles, *further))
            # The library wants kernels in blocks of channels.
            with self._threads(1 if math.prod(convolution.kernel) < LARGE_KERNEL else None):
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
            "by_input": (outputs, transposed(kernel), images),
            "by_kernel": (transposed(images), outputs, kernel),
        }[kind]
        return tuple(self._memory_description(*matrix, convolution.dtype) for matrix in matrices)

    def _window(self, kind: Kind, convolution: Convolution, attributes: _Handle) -> _Handle:
        images, results = nhwc(convolution.images), nhwc(convolution.outputs)
        source, result = (
            self._memory_description(*layout, convolution.dtype) for layout in (images, results)
        )
        sizes, _ = hwio(convolution)
        kernel = self._create(
            "memory_desc_create_with_tag",
            ctypes.c_int(len(sizes)),
            int64(sizes),
            ctypes.c_int(_TYPES[convolution.dtype]),
            ctypes.c_int(_ANY_FORMAT),
        )
        (top, bottom), (left, right) = convolution.pads
        strides, dilations = int64((convolution.stride,) * 2), int64((0, 0))
        window = (strides, dilations, int64((top, left)), int64((bottom, right)))
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
        operations = (_MULTIPLY, _ADD, _ADD) if finish.scaled else (_ADD, _ADD)
        for operation, operand in zip(operations, self._finishing(convolution, finish), strict=False):
            self._check(self._functions.dnnl_post_ops_append_binary(steps, ctypes.c_int(operation), operand))
        if finish.activation != "none":
            kind, last = _ACTIVATIONS[finish.activation]
            parameters = ctypes.c_float(0), ctypes.c_float(last)
            self._check(self._functions.dnnl_post_ops_append_eltwise(steps, ctypes.c_int(kind), *parameters))
        self._check(self._functions.dnnl_primitive_attr_set_post_ops(attributes, steps))
        return attributes

    def _finishing(self, convolution: Convolution, finish: Finish | None) -> list[_Handle]:
        """Of factor, offset and residual, in as many dimensions as the outputs have for the library."""
        if finish is None:
            return []
        channels = convolution.outputs[3]
        vector: Layout = (1, channels, 1, 1), (channels, 1, 1, 1)
        residual = nhwc(convolution.outputs)
        if is_product(convolution):
            pixels = math.prod(convolution.outputs[:3])
            vector, residual = ((1, channels), (channels, 1)), ((pixels, channels), (channels, 1))
        vectors = 2 if finish.scaled else 1
        layouts = [self._memory_description(*vector, "float32") for _ in range(vectors)]
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
            int64(sizes),
            ctypes.c_int(_TYPES[dtype]),
            int64(strides),
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


def _instructions(name: str) -> str:
    """Those that an implementation uses, by its name."""
    return name.rpartition(":")[2]
