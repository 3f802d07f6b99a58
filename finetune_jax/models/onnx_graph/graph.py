"""A graph while it grows: its nodes, its constants, and values in the order of axes that a node needs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune_jax.models.onnx_graph.tensors import Batch, Size, Tensor, identity

OPSET = 18


class Graph:
    """Nodes in the order of computation; a node is ``(operator, inputs, outputs, attributes)``."""

    def __init__(self, images: str) -> None:
        """Start with the name of the only input, whose first axis is the batch."""
        self.images = images
        self.nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = []
        self.constants: dict[str, np.ndarray] = {}
        self._count = 0
        self._names: dict[tuple[Any, ...], str] = {}
        self._kept: list[np.ndarray] = []  # constants by id, which must not be given to another array

    def node(self, operator: str, inputs: Sequence[str], *, outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node and return the names of its outputs."""
        names = [self._fresh(operator.lower()) for _ in range(outputs)]
        self.nodes.append((operator, list(inputs), names, attributes))
        return names

    def one(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return its name."""
        return self.node(operator, inputs, **attributes)[0]

    def value(self, array: np.ndarray) -> str:
        """The name of a constant."""
        key = (
            ("small", array.dtype.str, array.shape, array.tobytes())
            if array.size <= 64
            else ("id", id(array))
        )
        if key not in self._names:
            self._kept.append(array)
            self._names[key] = self._fresh("constant")
            self.constants[self._names[key]] = np.ascontiguousarray(array).reshape(array.shape)
        return self._names[key]

    def integers(self, values: Sequence[int]) -> str:
        """The name of an int64 vector."""
        return self.value(np.asarray(values, np.int64))

    def name(self, tensor: Tensor, axes: tuple[int, ...] | None = None) -> str:
        """The name of a value with its axes in this order, by default the program's."""
        axes = identity(tensor.rank) if axes is None else axes
        if tensor.constant is not None:
            if axes == identity(tensor.rank):
                return self.value(tensor.constant)
            key: tuple[Any, ...] = ("turned constant", id(tensor.constant), axes)
            if key not in self._names:
                self._kept.append(tensor.constant)
                self._names[key] = self.value(np.ascontiguousarray(tensor.constant.transpose(axes)))
            return self._names[key]
        assert tensor.name is not None
        if tensor.axes == axes:
            return tensor.name
        key = ("turned", tensor.name, tensor.axes, axes)
        if key not in self._names:
            order = [tensor.axes.index(axis) for axis in axes]
            self._names[key] = self.one("Transpose", tensor.name, perm=order)
        return self._names[key]

    def operand(self, tensor: Tensor, axes: tuple[int, ...] | None = None) -> str:
        """As :meth:`name`, of constants without leading axes of size 1, which operators on every number add."""
        if tensor.constant is None:
            return self.name(tensor, axes)
        turned = tensor.constant.transpose(axes)
        leading = next((axis for axis, size in enumerate(turned.shape) if size != 1), turned.ndim)
        key = ("operand", id(tensor.constant), axes)
        if key not in self._names:
            self._kept.append(tensor.constant)
            self._names[key] = self.value(np.ascontiguousarray(turned.reshape(turned.shape[leading:])))
        return self._names[key]

    def whole(self, tensor: Tensor, axes: tuple[int, ...] | None = None) -> str:
        """As :meth:`name`, with the values of repeated axes written out."""
        axes = identity(tensor.rank) if axes is None else axes
        name = self.name(tensor, axes)
        if not tensor.repeated:
            return name
        key = ("whole", name, tuple(tensor.shape[axis] for axis in axes))
        if key not in self._names:
            self._names[key] = self.one("Expand", name, self.sizes([tensor.shape[axis] for axis in axes]))
        return self._names[key]

    def sizes(self, shape: Sequence[Size]) -> str:
        """The name of an int64 vector of sizes, which the number of images decides where one is a batch."""
        if not any(isinstance(size, Batch) for size in shape):
            return self.integers([int(size) for size in shape])  # type: ignore[arg-type]
        parts = []
        for size in shape:
            if not isinstance(size, Batch):
                parts.append(self.integers([size]))
            elif size.factor == 1:
                parts.append(self._batch())
            else:
                parts.append(self.one("Mul", self._batch(), self.integers([size.factor])))
        return self.one("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]

    def _batch(self) -> str:
        if ("batch",) not in self._names:
            self._names[("batch",)] = self.one("Shape", self.images, start=0, end=1)
        return self._names[("batch",)]

    def _fresh(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}_{self._count}"
