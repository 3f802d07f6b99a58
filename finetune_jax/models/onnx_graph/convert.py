"""From a pure function of images to an ONNX graph.

The function is traced for two batch sizes; the sizes in which the two programs differ are those of the batch. So the
graph takes any number of images, and the function may count them. What depends on no image is computed at once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core
import numpy as np

from finetune_jax.errors import UserError
from finetune_jax.models.layers.convolution import countable
from finetune_jax.models.onnx_graph import contraction, elementwise, movement
from finetune_jax.models.onnx_graph.graph import Graph
from finetune_jax.models.onnx_graph.model import build
from finetune_jax.models.onnx_graph.simplify import simplified
from finetune_jax.models.onnx_graph.tensors import Batch, Size, Tensor, constant, identity

_BATCHES = (2, 3)  # few enough that no function takes them for a large batch

_INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
_REDUCTIONS = {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
}
_UNCHANGED = ("copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision", "pvary")


def to_onnx(
    function: Callable[[jax.Array], jax.Array],
    image_shape: Sequence[int],
    *,
    dtype: Any = np.uint8,
    input_name: str = "images",
    output_name: str = "outputs",
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """The ONNX model of a function of images, for any number of them.

    Args:
        function: pure; ``[N, H, W, C]`` to one array whose first axis is ``N``, each row of its own image.
        image_shape: ``(H, W, C)``.
        dtype: of the images.
        input_name: of the images.
        output_name: of the result.
        metadata: texts by name, kept in the file.

    Returns:
        An ``onnx.ModelProto``.

    Raises:
        UserError: the function has an operation that has no ONNX form here; names it. Or ``onnx`` is not
            installed.
    """
    with countable():
        programs = [
            jax.make_jaxpr(function)(jax.ShapeDtypeStruct((count, *image_shape), dtype)) for count in _BATCHES
        ]
    graph = Graph(input_name)
    shape: tuple[Size, ...] = (Batch(1), *image_shape)
    images = Tensor(shape, np.dtype(dtype), input_name, None, identity(len(shape)))
    walk = _Walk(graph)
    (output,) = walk.program([program.jaxpr for program in programs], _constants(programs), [images])
    name = graph.whole(output)
    nodes, constants = simplified(graph.nodes, graph.constants, name)
    return build(nodes, constants, images, input_name, output, name, output_name, dict(metadata or {}))


def _constants(programs: Sequence[Any]) -> list[Tensor]:
    return [constant(np.asarray(value)) for value in programs[0].consts]


class _Walk:
    """Goes through two traces of one program, equation by equation."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def program(
        self, jaxprs: Sequence[Any], consts: Sequence[Tensor], operands: Sequence[Tensor]
    ) -> list[Tensor]:
        """The values of the program's results."""
        first, second = jaxprs
        values: dict[Any, Tensor] = {}
        values.update(zip(first.constvars, consts, strict=True))
        values.update(zip(first.invars, operands, strict=True))

        def read(variable: Any) -> Tensor:
            if isinstance(variable, jax.extend.core.Literal):
                kind: Any = variable.aval
                return constant(np.asarray(variable.val, kind.dtype))
            return values[variable]

        if len(first.eqns) != len(second.eqns):
            raise UserError("the network does something else for other batch sizes; it has no ONNX form")
        for one, other in zip(first.eqns, second.eqns, strict=True):
            results = self._equation(one, other, [read(variable) for variable in one.invars])
            values.update(zip(one.outvars, results, strict=True))
        return [read(variable) for variable in first.outvars]

    def _equation(self, one: Any, other: Any, operands: list[Tensor]) -> list[Tensor]:
        name = one.primitive.name
        if name in _INLINED:
            inner = [equation.params[_INLINED[name]] for equation in (one, other)]
            consts = _constants(inner) if hasattr(inner[0], "consts") else []
            return self.program([getattr(jaxpr, "jaxpr", jaxpr) for jaxpr in inner], consts, operands)
        shapes = [_sizes(a.aval.shape, b.aval.shape) for a, b in zip(one.outvars, other.outvars, strict=True)]
        fixed = not any(isinstance(size, Batch) for shape in shapes for size in shape)
        if fixed and all(operand.constant is not None and not operand.repeated for operand in operands):
            values = one.primitive.bind(*[np.asarray(operand.constant) for operand in operands], **one.params)
            values = values if one.primitive.multiple_results else [values]
            return [constant(np.asarray(value)) for value in values]
        try:
            return self._computed(name, one.params, other.params, operands, shapes)
        except (NotImplementedError, KeyError) as error:
            raise UserError(
                f"--format=onnx: the network has an operation without an ONNX form here ({name}: {error})"
            ) from error

    def _computed(
        self, name: str, params: Any, others: Any, operands: list[Tensor], shapes: list[tuple[Size, ...]]
    ) -> list[Tensor]:
        graph, shape = self._graph, shapes[0]
        if name in _UNCHANGED:
            return operands
        if name in elementwise.EMITTERS:
            return [elementwise.EMITTERS[name](graph, *operands, **params)]
        if name in _REDUCTIONS:
            return [
                contraction.reduction(graph, operands[0], operator=_REDUCTIONS[name], axes=params["axes"])
            ]
        if name == "conv_general_dilated":
            return [contraction.convolution(graph, *operands, shape=shape, **params)]
        if name == "dot_general":
            return [contraction.product(graph, *operands, shape=shape, **params)]
        if name in ("reduce_window_max", "reduce_window_sum"):
            largest = name == "reduce_window_max"
            return [contraction.pooling(graph, operands[0], largest=largest, shape=shape, **params)]
        if name == "reshape" and params["dimensions"] is None:
            return [movement.reshape(graph, operands[0], shape=shape)]
        if name == "transpose":
            return [movement.transpose(graph, operands[0], permutation=params["permutation"])]
        if name == "broadcast_in_dim":
            places = params["broadcast_dimensions"]
            return [movement.broadcast(graph, operands[0], shape=shape, broadcast_dimensions=places)]
        if name == "expand_dims":
            places = [axis for axis in range(len(shape)) if axis not in params["dimensions"]]
            return [movement.broadcast(graph, operands[0], shape=shape, broadcast_dimensions=places)]
        if name == "squeeze":
            return [movement.squeeze(graph, operands[0], dimensions=params["dimensions"])]
        if name == "concatenate":
            return [movement.concatenate(graph, *operands, dimension=params["dimension"], shape=shape)]
        if name == "split":
            return movement.split(graph, operands[0], sizes=params["sizes"], axis=params["axis"])
        if name == "slice":
            limits = _sizes(params["limit_indices"], others["limit_indices"])
            starts, strides = params["start_indices"], params["strides"] or (1,) * len(shape)
            return [
                movement.cut(graph, operands[0], starts=starts, limits=limits, strides=strides, shape=shape)
            ]
        if name == "rev":
            back = [axis in params["dimensions"] for axis in range(len(shape))]
            starts = [-1 if turned else 0 for turned in back]
            ends = [-(2**31) if turned else size for turned, size in zip(back, shape, strict=True)]
            steps = [-1 if turned else 1 for turned in back]
            return [movement.cut(graph, operands[0], starts=starts, limits=ends, strides=steps, shape=shape)]
        if name == "pad":
            return [movement.pad(graph, *operands, padding=params["padding_config"], shape=shape)]
        if name == "argmax":
            axes, kind = params["axes"], params["index_dtype"]
            return [movement.argmax(graph, operands[0], axes=axes, index_dtype=kind)]
        raise NotImplementedError("no such form")


def _sizes(one: Sequence[int], other: Sequence[int]) -> tuple[Size, ...]:
    sizes: list[Size] = []
    for small, large in zip(one, other, strict=True):
        if small == large:
            sizes.append(small)
        elif small * _BATCHES[1] == large * _BATCHES[0]:
            sizes.append(Batch(small // _BATCHES[0]))
        else:
            raise UserError("the network does something else for other batch sizes; it has no ONNX form")
    return tuple(sizes)
