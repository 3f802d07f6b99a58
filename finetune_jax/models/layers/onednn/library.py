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
from collections.abc import Callable, Iterator

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
from finetune_jax.models.layers.onednn.engine import (
    FORWARD_TRAINING,
    KERNEL,
    KERNEL_GRADIENT,
    RESULT,
    RESULT_GRADIENT,
    SCRATCHPAD,
    SOURCE,
    SOURCE_GRADIENT,
    TYPES,
    Engine,
    Handle,
)

_DISTRIBUTION = "onednn-cpu-gomp"
_FILE = "libdnnl.so.3"

# How long OpenMP's threads wait in a loop for more work: over the microseconds between two primitives of a call,
# and no longer, for XLA's threads want the cores. Values that the user has set stay.
_WAITING = {"GOMP_SPINCOUNT": "1000"}

# Of dnnl_types.h and dnnl_common_types.h, which fix them for all versions 3.
_ANY_FORMAT, _DIRECT = 1, 1
_WEIGHTS, _DIFF_WEIGHTS = 131, 132  # queries
_OPERAND_OF_STEP = 32768  # times the number of the step, from 1, plus 2
_ADD, _MULTIPLY = 0x1FFF0, 0x1FFF1
_ACTIVATIONS = {
    "relu": (0x20, 0),
    "relu6": (0x2E, 6),
    "gelu": (0x31, 0),
}  # with the second of their parameters
_ROLES = {  # of images, kernel and outputs
    "forward": (SOURCE, KERNEL, RESULT),
    "by_input": (SOURCE_GRADIENT, KERNEL, RESULT_GRADIENT),
    "by_kernel": (SOURCE, KERNEL_GRADIENT, RESULT_GRADIENT),
}


class Library(Engine):
    """The loaded library, and its convolutions."""

    def description(self, kind: Kind, convolution: Convolution, finish: Finish | None = None) -> Handle:
        """What the library would run.

        Raises:
            OneDNNError: it has nothing for these shapes, or nothing but its slow reference.
        """
        describe = self._product if is_product(convolution) else self._window
        attributes = self._attributes(convolution, finish)
        description = describe(kind, convolution, attributes)
        if has_few_channels(kind, convolution):
            direct = describe(kind, convolution, attributes)
            while (name := self.name(direct)).startswith(SMALL_PRODUCTS):
                if self.functions.dnnl_primitive_desc_next_impl(direct):
                    break
            if name.startswith(DIRECT_KERNELS) and _instructions(name) == _instructions(
                self.name(description)
            ):
                description = direct
        if self.name(description).startswith("ref"):
            raise OneDNNError(f"oneDNN has only its reference for {convolution}")
        return description

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
        scratchpad = self.scratchpad(description)
        scratch = self.memory(scratchpad)
        reserved = [(scratch, self.size(scratchpad))]
        finishing = [self.memory(layout) for layout in self._finishing(convolution, finish)]
        further = [
            (SCRATCHPAD, scratch),
            *((_OPERAND_OF_STEP * step + 2, memory) for step, memory in enumerate(finishing, start=1)),
        ]
        primitive = self.create("primitive_create", description)
        if is_product(convolution):
            first, second, third = map(self.memory, self._matrices(kind, convolution))
            arguments = ((SOURCE, first), (KERNEL, second), (RESULT, third), *further)
            steps: tuple[Callable[[], None], ...] = (self.execution(primitive, arguments),)
        else:
            blocked = self.query(description, _DIFF_WEIGHTS if kind == "by_kernel" else _WEIGHTS)
            plain = self.memory_description(*hwio(convolution), convolution.dtype)
            images, outputs = (
                self.memory(self.memory_description(*nhwc(shape), convolution.dtype))
                for shape in (convolution.images, convolution.outputs)
            )
            kernel, blocks = map(self.memory, (plain, blocked))
            reserved.append((blocks, self.size(blocked)))
            roles = zip(_ROLES[kind], (images, blocks, outputs), strict=True)
            convolve = self.execution(primitive, (*roles, *further))
            # The library wants kernels in blocks of channels.
            with self.threads(1 if math.prod(convolution.kernel) < LARGE_KERNEL else None):
                if kind == "by_kernel":
                    steps = (convolve, self.reordering(blocked, plain, blocks, kernel))
                else:
                    steps = (self.reordering(plain, blocked, kernel, blocks), convolve)
            first, second, third = {
                "forward": (images, kernel, outputs),
                "by_input": (outputs, kernel, images),
                "by_kernel": (images, outputs, kernel),
            }[kind]
        operands = (first, second, *finishing, third)

        def run(*addresses: int) -> None:
            at = self.reserve(sum(size for _, size in reserved))
            for memory, size in reserved:
                self.place(memory, at)
                at += size
            for memory, address in zip(operands, addresses, strict=True):
                self.place(memory, address)
            for step in steps:
                step()

        return run

    def _product(self, kind: Kind, convolution: Convolution, attributes: Handle) -> Handle:
        left, right, result = self._matrices(kind, convolution)
        return self.create("matmul_primitive_desc_create", self.engine, left, right, None, result, attributes)

    def _matrices(self, kind: Kind, convolution: Convolution) -> tuple[Handle, ...]:
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
        return tuple(self.memory_description(*matrix, convolution.dtype) for matrix in matrices)

    def _window(self, kind: Kind, convolution: Convolution, attributes: Handle) -> Handle:
        images, results = nhwc(convolution.images), nhwc(convolution.outputs)
        source, result = (self.memory_description(*layout, convolution.dtype) for layout in (images, results))
        sizes, _ = hwio(convolution)
        kernel = self.create(
            "memory_desc_create_with_tag",
            ctypes.c_int(len(sizes)),
            int64(sizes),
            ctypes.c_int(TYPES[convolution.dtype]),
            ctypes.c_int(_ANY_FORMAT),
        )
        (top, bottom), (left, right) = convolution.pads
        strides, dilations = int64((convolution.stride,) * 2), int64((0, 0))
        window = (strides, dilations, int64((top, left)), int64((bottom, right)))
        direct = ctypes.c_int(_DIRECT)
        forward = self.create(
            "convolution_forward_primitive_desc_create",
            self.engine,
            ctypes.c_int(FORWARD_TRAINING),
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
        tensors: tuple[Handle | None, ...] = (source, kernel, result)
        name = "convolution_backward_data_primitive_desc_create"
        if kind == "by_kernel":
            name, tensors = (
                "convolution_backward_weights_primitive_desc_create",
                (source, kernel, None, result),
            )
        return self.create(name, self.engine, direct, *tensors, *window, forward, attributes)

    def _attributes(self, convolution: Convolution, finish: Finish | None) -> Handle:
        attributes = self.attributes()
        if finish is None:
            return attributes
        steps = self.create("post_ops_create")
        operations = (_MULTIPLY, _ADD, _ADD) if finish.scaled else (_ADD, _ADD)
        for operation, operand in zip(operations, self._finishing(convolution, finish), strict=False):
            self.check(self.functions.dnnl_post_ops_append_binary(steps, ctypes.c_int(operation), operand))
        if finish.activation != "none":
            kind, last = _ACTIVATIONS[finish.activation]
            parameters = ctypes.c_float(0), ctypes.c_float(last)
            self.check(self.functions.dnnl_post_ops_append_eltwise(steps, ctypes.c_int(kind), *parameters))
        self.check(self.functions.dnnl_primitive_attr_set_post_ops(attributes, steps))
        return attributes

    def _finishing(self, convolution: Convolution, finish: Finish | None) -> list[Handle]:
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
        layouts = [self.memory_description(*vector, "float32") for _ in range(vectors)]
        return layouts + [self.memory_description(*residual, convolution.dtype)] * finish.residual


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
