"""Operators that move numbers: shapes, slices, padding, joining."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune_jax.models.onnx_graph.elementwise import common_axes
from finetune_jax.models.onnx_graph.graph import Graph
from finetune_jax.models.onnx_graph.tensors import Batch, Size, Tensor, constant, identity


def reshape(graph: Graph, operand: Tensor, *, shape: tuple[Size, ...]) -> Tensor:
    """The operand's numbers in another shape."""
    name = graph.whole(operand)
    if sum(isinstance(size, Batch) for size in shape) == 1:
        target = graph.integers([-1 if isinstance(size, Batch) else size for size in shape])
    else:
        target = graph.sizes(shape)
    made = graph.one("Reshape", name, target)
    return Tensor(shape, operand.dtype, made, None, identity(len(shape)))


def transpose(graph: Graph, operand: Tensor, *, permutation: Sequence[int]) -> Tensor:
    """The operand with its axes in another order, which moves nothing yet."""
    shape = tuple(operand.shape[axis] for axis in permutation)
    places = {axis: place for place, axis in enumerate(permutation)}
    if operand.constant is not None:
        return constant(operand.constant.transpose(permutation), shape)
    axes = tuple(places[axis] for axis in operand.axes)
    repeated = frozenset(places[axis] for axis in operand.repeated)
    return Tensor(shape, operand.dtype, operand.name, None, axes, repeated)


def broadcast(
    graph: Graph, operand: Tensor, *, shape: tuple[Size, ...], broadcast_dimensions: Sequence[int]
) -> Tensor:
    """The operand repeated along new axes, which is written out only where an operator needs it."""
    added = [axis for axis in range(len(shape)) if axis not in broadcast_dimensions]
    places = dict(enumerate(broadcast_dimensions))
    repeated = {places[axis] for axis in operand.repeated} | {axis for axis in added if shape[axis] != 1}
    repeated |= {
        places[axis] for axis, size in enumerate(operand.shape) if size == 1 and shape[places[axis]] != 1
    }
    if operand.constant is not None:
        sizes = [1] * len(shape)
        for axis, place in places.items():
            sizes[place] = operand.constant.shape[axis]
        return constant(operand.constant.reshape(sizes), shape)
    if not added:
        return Tensor(shape, operand.dtype, operand.name, None, operand.axes, frozenset(repeated))
    name = graph.one("Unsqueeze", graph.name(operand), graph.integers(added))
    return Tensor(shape, operand.dtype, name, None, identity(len(shape)), frozenset(repeated))


def squeeze(graph: Graph, operand: Tensor, *, dimensions: Sequence[int]) -> Tensor:
    """The operand without axes of size 1."""
    kept = [axis for axis in range(operand.rank) if axis not in dimensions]
    places = {axis: place for place, axis in enumerate(kept)}
    positions = sorted(operand.position(axis) for axis in dimensions)
    if operand.constant is not None:
        value = operand.constant.reshape([operand.constant.shape[axis] for axis in kept])
        return constant(value, tuple(operand.shape[axis] for axis in kept))
    assert operand.name is not None
    name = graph.one("Squeeze", operand.name, graph.integers(positions))
    axes = tuple(places[axis] for axis in operand.axes if axis in places)
    repeated = frozenset(places[axis] for axis in operand.repeated if axis in places)
    return Tensor(tuple(operand.shape[axis] for axis in kept), operand.dtype, name, None, axes, repeated)


def concatenate(graph: Graph, *operands: Tensor, dimension: int, shape: tuple[Size, ...]) -> Tensor:
    """The operands one after the other along an axis."""
    axes = common_axes(operands)
    names = [graph.whole(tensor, axes) for tensor in operands]
    name = graph.one("Concat", *names, axis=axes.index(dimension))
    return Tensor(shape, operands[0].dtype, name, None, axes)


def split(graph: Graph, operand: Tensor, *, sizes: Sequence[int], axis: int) -> list[Tensor]:
    """Pieces of the operand along an axis."""
    name = graph.whole(operand, operand.axes)
    names = graph.node(
        "Split", [name, graph.integers(sizes)], outputs=len(sizes), axis=operand.position(axis)
    )
    shapes = [(*operand.shape[:axis], int(size), *operand.shape[axis + 1 :]) for size in sizes]
    return [
        Tensor(shape, operand.dtype, piece, None, operand.axes)
        for shape, piece in zip(shapes, names, strict=True)
    ]


def cut(
    graph: Graph,
    operand: Tensor,
    *,
    starts: Sequence[int],
    limits: Sequence[Size],
    strides: Sequence[int],
    shape: tuple[Size, ...],
) -> Tensor:
    """A rectangle of the operand, with strides; negative ones go backwards."""
    changed = [
        axis
        for axis, (start, limit, stride) in enumerate(zip(starts, limits, strides, strict=True))
        if start != 0 or limit != operand.shape[axis] or stride != 1
    ]
    if not changed:
        return operand
    if any(isinstance(limits[axis], Batch) for axis in changed):
        raise NotImplementedError("a part of the batch")
    name = graph.one(
        "Slice",
        graph.whole(operand, operand.axes),
        graph.integers([starts[axis] for axis in changed]),
        graph.integers([limits[axis] for axis in changed]),  # type: ignore[misc]
        graph.integers([operand.position(axis) for axis in changed]),
        graph.integers([strides[axis] for axis in changed]),
    )
    return Tensor(shape, operand.dtype, name, None, operand.axes)


def pad(
    graph: Graph,
    operand: Tensor,
    filling: Tensor,
    *,
    padding: Sequence[tuple[int, int, int]],
    shape: tuple[Size, ...],
) -> Tensor:
    """The operand with a constant around it; negative padding cuts."""
    if filling.constant is None or any(between for _, _, between in padding):
        raise NotImplementedError("padding between numbers or with computed ones")
    lows = [max(0, padding[axis][0]) for axis in operand.axes]
    highs = [max(0, padding[axis][1]) for axis in operand.axes]
    name = graph.whole(operand, operand.axes)
    if any(lows) or any(highs):
        name = graph.one("Pad", name, graph.integers(lows + highs), graph.value(filling.constant))
    cuts = [axis for axis, (low, high, _) in enumerate(padding) if low < 0 or high < 0]
    if cuts:
        name = graph.one(
            "Slice",
            name,
            graph.integers([max(0, -padding[axis][0]) for axis in cuts]),
            graph.integers([min(-1, padding[axis][1]) + (padding[axis][1] >= 0) or 2**31 for axis in cuts]),
            graph.integers([operand.position(axis) for axis in cuts]),
        )
    return Tensor(shape, operand.dtype, name, None, operand.axes)


def argmax(graph: Graph, operand: Tensor, *, axes: Sequence[int], index_dtype: Any) -> Tensor:
    """The place of the largest number along an axis, the first of equals."""
    (axis,) = axes
    name = graph.whole(operand, operand.axes)
    name = graph.one("ArgMax", name, axis=operand.position(axis), keepdims=0)
    name = graph.one("Cast", name, to=np.dtype(index_dtype))
    kept = [a for a in range(operand.rank) if a != axis]
    places = {a: place for place, a in enumerate(kept)}
    order = tuple(places[a] for a in operand.axes if a != axis)
    return Tensor(tuple(operand.shape[a] for a in kept), np.dtype(index_dtype), name, None, order)
