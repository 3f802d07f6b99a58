"""Operators that work on every number by itself."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from finetune_jax.models.onnx_graph.graph import Graph
from finetune_jax.models.onnx_graph.tensors import Tensor, identity

Emit = Callable[..., Tensor]


def common_axes(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """The order of axes in which most of the computed values of the highest rank lie."""
    rank = max(tensor.rank for tensor in tensors)
    orders = [tensor.axes for tensor in tensors if tensor.constant is None and tensor.rank == rank]
    turned = [axes for axes in orders if axes != identity(rank)]
    return max(turned or orders or [identity(rank)], key=(turned or orders or [identity(rank)]).count)


def joined(graph: Graph, make: Callable[..., str], operands: Sequence[Tensor], dtype: Any = None) -> Tensor:
    """The value that ``make`` computes of the operands' names, which have equal shapes or no axes."""
    axes = common_axes(operands)
    names = [graph.operand(tensor, axes if tensor.rank == len(axes) else None) for tensor in operands]
    whole = [tensor for tensor in operands if tensor.rank == len(axes)]
    repeated = frozenset.intersection(*[tensor.repeated for tensor in whole])
    kind = np.dtype(dtype) if dtype is not None else whole[0].dtype
    return Tensor(whole[0].shape, kind, make(*names), None, axes, repeated)


def _simple(operator: str, dtype: Any = None) -> Emit:
    def emit(graph: Graph, *operands: Tensor, **_: Any) -> Tensor:
        return joined(graph, lambda *names: graph.one(operator, *names), operands, dtype)

    return emit


def _composed(make: Callable[[Graph, Callable[[float], str], str], str]) -> Emit:
    """Of one operand; ``make(graph, number, name)`` gets constants of the operand's type by ``number``."""

    def emit(graph: Graph, operand: Tensor, **_: Any) -> Tensor:
        def number(value: float) -> str:
            return graph.value(np.asarray(value, operand.dtype))

        return joined(graph, lambda name: make(graph, number, name), [operand])

    return emit


def _maximum(graph: Graph, *operands: Tensor, **_: Any) -> Tensor:
    for one, other in (operands, operands[::-1]):
        if other.constant is not None and not other.constant.any() and one.dtype.kind == "f":
            return joined(graph, lambda name: graph.one("Relu", name), [one])
    return joined(graph, lambda *names: graph.one("Max", *names), operands)


def _integer_pow(graph: Graph, operand: Tensor, *, y: int, **_: Any) -> Tensor:
    def make(name: str) -> str:
        if y == 2:
            return graph.one("Mul", name, name)
        if y == -1:
            return graph.one("Reciprocal", name)
        return graph.one("Pow", name, graph.value(np.asarray(y, operand.dtype)))

    return joined(graph, make, [operand])


def _not_equal(graph: Graph, *operands: Tensor, **_: Any) -> Tensor:
    return joined(graph, lambda *names: graph.one("Not", graph.one("Equal", *names)), operands, bool)


def _select(graph: Graph, which: Tensor, *cases: Tensor, **_: Any) -> Tensor:
    if which.dtype != np.dtype(bool) or len(cases) != 2:
        raise NotImplementedError("a choice among more than two values")
    chosen = joined(graph, lambda *names: graph.one("Where", *names), [which, cases[1], cases[0]])
    return Tensor(cases[0].shape, cases[0].dtype, chosen.name, None, chosen.axes, chosen.repeated)


def _clamp(graph: Graph, low: Tensor, operand: Tensor, high: Tensor, **_: Any) -> Tensor:
    def make(low: str, name: str, high: str) -> str:
        return graph.one("Min", graph.one("Max", name, low), high)

    return joined(graph, make, [low, operand, high])


def cast(graph: Graph, operand: Tensor, *, new_dtype: Any, **_: Any) -> Tensor:
    """The operand as another type."""
    to = np.dtype(new_dtype)
    if to == operand.dtype:
        return operand
    return joined(graph, lambda name: graph.one("Cast", name, to=to), [operand], to)


EMITTERS: dict[str, Emit] = {
    **{name: _simple(name.capitalize()) for name in ("add", "sub", "mul", "div", "min", "pow", "neg", "exp")},
    **{name: _simple(name.capitalize()) for name in ("log", "tanh", "sqrt", "abs", "sign", "floor", "ceil")},
    **{name: _simple(name.capitalize()) for name in ("erf", "cos", "sin", "not", "and", "or")},
    "logistic": _simple("Sigmoid"),
    "gt": _simple("Greater", bool),
    "lt": _simple("Less", bool),
    "ge": _simple("GreaterOrEqual", bool),
    "le": _simple("LessOrEqual", bool),
    "eq": _simple("Equal", bool),
    "ne": _not_equal,
    "max": _maximum,
    "integer_pow": _integer_pow,
    "square": _composed(lambda graph, number, name: graph.one("Mul", name, name)),
    "rsqrt": _composed(lambda graph, number, name: graph.one("Reciprocal", graph.one("Sqrt", name))),
    "erfc": _composed(lambda graph, number, name: graph.one("Sub", number(1), graph.one("Erf", name))),
    "log1p": _composed(lambda graph, number, name: graph.one("Log", graph.one("Add", name, number(1)))),
    "expm1": _composed(lambda graph, number, name: graph.one("Sub", graph.one("Exp", name), number(1))),
    "select_n": _select,
    "clamp": _clamp,
    "convert_element_type": cast,
}
"""``{primitive of JAX: function of the graph, its operands and its parameters}``."""
