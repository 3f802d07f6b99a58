"""Operators that sum: convolutions, products, reductions, pooling."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune_jax.models.onnx_graph.graph import Graph
from finetune_jax.models.onnx_graph.tensors import Size, Tensor, identity

_IMAGES = (0, 3, 1, 2)  # NHWC in ONNX's order


def convolution(
    graph: Graph, images: Tensor, kernel: Tensor, *, shape: tuple[Size, ...], **how: Any
) -> Tensor:
    """``lax.conv_general_dilated``."""
    numbers = how["dimension_numbers"]
    if any(step != 1 for step in how["lhs_dilation"]) or how["batch_group_count"] != 1:
        raise NotImplementedError("a transposed convolution")
    lows, highs = zip(*how["padding"], strict=True)
    name = graph.one(
        "Conv",
        graph.whole(images, tuple(numbers.lhs_spec)),
        graph.whole(kernel, tuple(numbers.rhs_spec)),
        strides=list(how["window_strides"]),
        pads=[*lows, *highs],
        dilations=list(how["rhs_dilation"]),
        group=how["feature_group_count"],
        kernel_shape=[int(kernel.shape[axis]) for axis in numbers.rhs_spec[2:]],
    )
    return Tensor(shape, images.dtype, name, None, tuple(numbers.out_spec))


def product(
    graph: Graph, left: Tensor, right: Tensor, *, dimension_numbers: Any, shape: tuple[Size, ...], **_: Any
) -> Tensor:
    """``lax.dot_general``: axes of the batch, then those of the left, then those of the right operand."""
    (left_sum, right_sum), (left_batch, right_batch) = dimension_numbers
    left_free = [axis for axis in range(left.rank) if axis not in (*left_sum, *left_batch)]
    right_free = [axis for axis in range(right.rank) if axis not in (*right_sum, *right_batch)]
    is_pointwise = left.axes == _IMAGES and tuple(left_sum) == (3,) and not left_batch
    if is_pointwise and right.constant is not None and right.rank == 2:
        # A convolution of single pixels, for which the images need not be turned round.
        kernel = np.ascontiguousarray(right.constant.transpose((*right_free, *right_sum))[:, :, None, None])
        name = graph.one("Conv", graph.whole(left, _IMAGES), graph.value(kernel), kernel_shape=[1, 1])
        return Tensor(shape, left.dtype, name, None, _IMAGES)
    as_matrices = len(left_batch) > 0 and len(left_free) == len(right_free) == 1
    as_rows = not left_batch and len(right_free) == 1 and len(left_free) >= 1
    if len(left_sum) == 1 and (as_matrices or as_rows):
        name = graph.one(
            "MatMul",
            graph.whole(left, (*left_batch, *left_free, *left_sum)),
            graph.whole(right, (*right_batch, *right_sum, *right_free)),
        )
        return Tensor(shape, left.dtype, name, None, identity(len(shape)))
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    of_left = {axis: next(letters) for axis in range(left.rank)}
    of_right = {
        b: of_left[a] for a, b in zip((*left_sum, *left_batch), (*right_sum, *right_batch), strict=True)
    }
    of_right |= {axis: next(letters) for axis in right_free}
    result = [of_left[axis] for axis in (*left_batch, *left_free)] + [of_right[axis] for axis in right_free]
    equation = (
        "".join(of_left[axis] for axis in range(left.rank))
        + ","
        + "".join(of_right[axis] for axis in range(right.rank))
        + "->"
        + "".join(result)
    )
    name = graph.one("Einsum", graph.whole(left), graph.whole(right), equation=equation)
    return Tensor(shape, left.dtype, name, None, identity(len(shape)))


def reduction(graph: Graph, operand: Tensor, *, operator: str, axes: Sequence[int]) -> Tensor:
    """Sum, maximum, … over axes."""
    if operand.repeated & set(axes):
        name = graph.whole(operand, operand.axes)
        operand = Tensor(operand.shape, operand.dtype, name, None, operand.axes)
    kept = [axis for axis in range(operand.rank) if axis not in axes]
    places = {axis: place for place, axis in enumerate(kept)}
    positions = sorted(operand.position(axis) for axis in axes)
    name = graph.one(operator, graph.name(operand, operand.axes), graph.integers(positions), keepdims=0)
    order = tuple(places[axis] for axis in operand.axes if axis in places)
    repeated = frozenset(places[axis] for axis in operand.repeated if axis in places)
    return Tensor(tuple(operand.shape[axis] for axis in kept), operand.dtype, name, None, order, repeated)


def pooling(graph: Graph, operand: Tensor, *, largest: bool, shape: tuple[Size, ...], **how: Any) -> Tensor:
    """``lax.reduce_window`` of images ``[N, H, W, C]``, the maximum or the sum."""
    window, strides, padding = how["window_dimensions"], how["window_strides"], how["padding"]
    plain = all(size == 1 for size in (*how["base_dilation"], *how["window_dilation"]))
    if len(window) != 4 or window[0] != 1 or window[3] != 1 or not plain:
        raise NotImplementedError("a window over other axes than height and width")
    settings: dict[str, Any] = {
        "kernel_shape": list(window[1:3]),
        "strides": list(strides[1:3]),
        "pads": [padding[1][0], padding[2][0], padding[1][1], padding[2][1]],
    }
    name = graph.whole(operand, _IMAGES)
    if largest:
        name = graph.one("MaxPool", name, **settings)
    else:
        name = graph.one("AveragePool", name, count_include_pad=1, **settings)
        name = graph.one("Mul", name, graph.value(np.asarray(window[1] * window[2], operand.dtype)))
    return Tensor(shape, operand.dtype, name, None, _IMAGES)
