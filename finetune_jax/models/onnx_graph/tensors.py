"""Values while a graph is made: where they are, and in which order their axes lie.

JAX's programs hold images as ``[N, H, W, C]``, ONNX convolves ``[N, C, H, W]``. Every value therefore remembers the
order of its axes in the graph, and is turned round only where an operator needs another order than it has.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Batch:
    """A size that is ``factor`` times the number of images."""

    factor: int


Size = int | Batch


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A value of the program.

    Attributes:
        shape: sizes of the program's axes.
        dtype: of NumPy.
        name: in the graph; None for a constant.
        constant: its value, of size 1 along ``repeated`` axes; None for what is computed.
        axes: axis ``i`` in the graph is axis ``axes[i]`` of the program; constants have the program's order.
        repeated: axes of the program along which the graph's value has size 1 and stands for equal values.
    """

    shape: tuple[Size, ...]
    dtype: np.dtype
    name: str | None
    constant: np.ndarray | None
    axes: tuple[int, ...]
    repeated: frozenset[int] = frozenset()

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def position(self, axis: int) -> int:
        """The place of an axis of the program in the graph."""
        return self.axes.index(axis)


def identity(rank: int) -> tuple[int, ...]:
    """The program's own order of axes."""
    return tuple(range(rank))


def constant(value: np.ndarray, shape: tuple[Size, ...] | None = None) -> Tensor:
    """A constant; with ``shape`` it is repeated where its size is 1 and that of ``shape`` is not."""
    sizes: tuple[Size, ...] = value.shape if shape is None else shape
    repeated = {axis for axis, size in enumerate(sizes) if value.shape[axis] == 1 and size != 1}
    return Tensor(sizes, value.dtype, None, value, identity(value.ndim), frozenset(repeated))
