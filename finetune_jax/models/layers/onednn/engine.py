"""oneDNN's engine, memory and primitives, through its C interface.

Functions, structures and numbers are those of its version 3, https://uxlfoundation.github.io/oneDNN/v3.2/.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from finetune_jax.models.layers.onednn.descriptions import OneDNNError, int64

Handle = ctypes.c_void_p
"""Of an object of the library, or an address."""

# Of dnnl_types.h and dnnl_common_types.h, which fix them for all versions 3.
_CPU, _IN_ORDER, _USER_SCRATCHPAD = 1, 1, 1
FORWARD_TRAINING = 64
TYPES = {"bfloat16": 2, "float32": 3}
_BFLOAT16_INSTRUCTIONS = (0x1F, 0xE7)  # avx2_vnni_2, avx512_core_bf16
_NAME, _SCRATCHPAD_MEMORY = 8, 136  # queries
SOURCE, RESULT, KERNEL, SCRATCHPAD = 1, 17, 33, 80  # arguments of a primitive
SOURCE_GRADIENT, RESULT_GRADIENT, KERNEL_GRADIENT = 129, 145, 161
_ALIGNMENT = 64  # bytes, a line of the cache
_USUAL_SCRATCH = 64 << 20  # bytes, more than networks usually need


class _Argument(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("memory", Handle))


class Engine:
    """The loaded library with an engine and a stream of its own. Its primitives must not run at the same time."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.functions = ctypes.CDLL(os.fspath(path))
        self.functions.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        self.functions.dnnl_primitive_desc_query_md.restype = Handle
        self.engine = self.create("engine_create", ctypes.c_int(_CPU), ctypes.c_size_t(0))
        self._stream = self.create("stream_create", self.engine, ctypes.c_uint(_IN_ORDER))
        self._scratch, self._scratch_address = np.empty(0, np.uint8), 0
        # Only addresses until it is used. What grew during the first step of a run would lie behind the step's memory
        # and keep the second step from its place, which then takes as much again (docs/lab/performance.md).
        self.reserve(_USUAL_SCRATCH)

    def has_type(self, dtype: str) -> bool:
        """Whether the processor multiplies numbers of this type by instructions of its own."""
        instructions = self.functions.dnnl_get_effective_cpu_isa()
        native = any(instructions & needed == needed for needed in _BFLOAT16_INSTRUCTIONS)
        return dtype == "float32" or (dtype == "bfloat16" and native)

    def create(self, name: str, *arguments: object) -> Handle:
        """What ``dnnl_NAME`` makes.

        Raises:
            OneDNNError: nothing.
        """
        created = Handle()
        self.check(getattr(self.functions, f"dnnl_{name}")(ctypes.byref(created), *arguments))
        return created

    def check(self, status: int) -> None:
        """Refuse a status that is not success.

        Raises:
            OneDNNError: it is not.
        """
        if status:
            raise OneDNNError(f"oneDNN answered with status {status}")

    def attributes(self) -> Handle:
        """Of a primitive whose scratchpad we give it."""
        attributes = self.create("primitive_attr_create")
        self.check(
            self.functions.dnnl_primitive_attr_set_scratchpad_mode(attributes, ctypes.c_int(_USER_SCRATCHPAD))
        )
        return attributes

    def name(self, description: Handle) -> str:
        """Of the implementation, such as ``jit_dw:avx512_core``."""
        name = ctypes.c_char_p(b"")
        self.check(
            self.functions.dnnl_primitive_desc_query(
                description, ctypes.c_int(_NAME), ctypes.c_int(0), ctypes.byref(name)
            )
        )
        return (name.value or b"").decode()

    def query(self, description: Handle, what: int) -> Handle:
        """The layout of one of a primitive's arguments."""
        return Handle(
            self.functions.dnnl_primitive_desc_query_md(description, ctypes.c_int(what), ctypes.c_int(0))
        )

    def scratchpad(self, description: Handle) -> Handle:
        """The layout of a primitive's scratchpad."""
        return self.query(description, _SCRATCHPAD_MEMORY)

    def memory(self, description: Handle) -> Handle:
        """Memory of a layout, which lies nowhere yet."""
        return self.create("memory_create", description, self.engine, None)

    def memory_description(self, sizes: Sequence[int], strides: Sequence[int], dtype: str) -> Handle:
        """A layout."""
        return self.create(
            "memory_desc_create_with_strides",
            ctypes.c_int(len(sizes)),
            int64(sizes),
            ctypes.c_int(TYPES[dtype]),
            int64(strides),
        )

    def size(self, description: Handle) -> int:
        """Bytes of a layout, up to where the next array may start."""
        return -(-self.functions.dnnl_memory_desc_get_size(description) // _ALIGNMENT) * _ALIGNMENT

    def reserve(self, size: int) -> int:
        """Address of ``size`` bytes, the same for all primitives: only one runs at a time."""
        if len(self._scratch) < size + _ALIGNMENT:
            self._scratch = np.empty(size + _ALIGNMENT, np.uint8)
            self._scratch_address = -(-self._scratch.ctypes.data // _ALIGNMENT) * _ALIGNMENT
        return self._scratch_address

    def place(self, memory: Handle, address: int) -> None:
        """Say where memory lies."""
        self.functions.dnnl_memory_set_data_handle(memory, Handle(address))

    @contextlib.contextmanager
    def threads(self, count: int | None) -> Iterator[None]:
        """Primitives that are created inside use as many threads; None is the usual number."""
        usual = self.functions.omp_get_max_threads()
        self.functions.omp_set_num_threads(ctypes.c_int(count or usual))
        try:
            yield
        finally:
            self.functions.omp_set_num_threads(ctypes.c_int(usual))

    def reordering(
        self, source: Handle, target: Handle, source_memory: Handle, target_memory: Handle
    ) -> Callable[[], None]:
        """From the memory of one layout to that of another."""
        description = self.create(
            "reorder_primitive_desc_create", source, self.engine, target, self.engine, None
        )
        return self.execution(
            self.create("primitive_create", description), ((SOURCE, source_memory), (RESULT, target_memory))
        )

    def execution(self, primitive: Handle, arguments: Sequence[tuple[int, Handle]]) -> Callable[[], None]:
        """A function that runs a primitive on memories, wherever they lie then."""
        array = (_Argument * len(arguments))(*(_Argument(kind, memory) for kind, memory in arguments))
        count, execute = ctypes.c_int(len(arguments)), self.functions.dnnl_primitive_execute
        return lambda: self.check(execute(primitive, self._stream, count, array))
