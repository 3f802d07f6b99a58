"""Reads the weights in ONNX files: an own reader of the few fields of their protocol buffers that hold arrays.

Nothing in the file is run. PyTorch's exporter keeps the names of entries, but a dense layer's matrix is folded into a
product and called ``onnx::MatMul_N``, transposed; it gets its name back from the bias that is added to the product.
Other arrays without a name, such as constants of shapes, keep the exporter's.

Source: the format's ``onnx.proto`` (numbers of fields) and the encoding of protocol buffers.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune_jax.files.weight_files.refusals import FETCH_AGAIN, BadFile, widened_bfloat16

_GRAPH, _NODE, _INITIALIZER = 7, 1, 5  # of the model, of its graph
_INPUT, _OUTPUT, _OPERATOR = 1, 2, 4  # of a node
_DIMS, _DATA_TYPE, _FLOATS, _NAME, _RAW, _LOCATION = 1, 2, 4, 8, 9, 14  # of a tensor
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT, _HALF, _BFLOAT16 = 1, 10, 16
_DTYPES = {_FLOAT: "<f4", 7: "<i8", 6: "<i4", _HALF: "<f2", 11: "<f8", _BFLOAT16: "<u2"}


class _Node(NamedTuple):
    operator: str
    inputs: list[str]
    outputs: list[str]


def read_onnx(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.onnx`` file by name, matrices of dense layers under the names of their layers."""
    content = memoryview(path.read_bytes())
    try:
        nodes, state = _graph(content)
    except (IndexError, ValueError, struct.error) as error:
        raise BadFile(f"is no intact ONNX file ({error}); fetch or copy it again") from error
    return _with_layer_names(nodes, state)


def _graph(content: memoryview) -> tuple[list[_Node], dict[str, np.ndarray]]:
    nodes, state = [], {}
    for number, graph in _fields(content):
        if number != _GRAPH or not isinstance(graph, memoryview):
            continue
        for kind, value in _fields(graph):
            if kind == _NODE and isinstance(value, memoryview):
                nodes.append(_node(value))
            elif kind == _INITIALIZER and isinstance(value, memoryview):
                name, array = _tensor(value)
                if array is not None:
                    state[name] = array
    return nodes, state


def _node(content: memoryview) -> _Node:
    node = _Node("", [], [])
    for number, value in _fields(content):
        if isinstance(value, memoryview):
            if number == _OPERATOR:
                node = node._replace(operator=_text(value))
            elif number in (_INPUT, _OUTPUT):
                (node.inputs if number == _INPUT else node.outputs).append(_text(value))
    return node


def _tensor(content: memoryview) -> tuple[str, np.ndarray | None]:
    """Name and array; None for types that no weights have."""
    name, data_type, shape, raw = "", 0, [], memoryview(b"")
    for number, value in _fields(content):
        if number == _NAME and isinstance(value, memoryview):
            name = _text(value)
        elif number == _DATA_TYPE and isinstance(value, int):
            data_type = value
        elif number == _DIMS:
            shape += [value] if isinstance(value, int) else list(_varints(value))
        elif number in (_RAW, _FLOATS) and isinstance(value, memoryview):
            raw = value
        elif number == _LOCATION and value:
            raise BadFile(f"keeps {name!r} in another file; save it as one file")
    if data_type not in _DTYPES:
        return name, None
    array = np.frombuffer(raw, _DTYPES[data_type])
    if math.prod(shape) != array.size:
        raise BadFile(f"has {array.size} numbers for {name!r} of shape {tuple(shape)}: it {FETCH_AGAIN}")
    array = array.reshape(shape)
    return name, widened_bfloat16(array) if data_type == _BFLOAT16 else array.astype(
        array.dtype.newbyteorder("=")
    )


def _with_layer_names(nodes: list[_Node], state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state with matrices of products renamed after the bias that is added to them, as ``[out, in]``."""
    products = {}
    for node in nodes:
        anonymous = [name for name in node.inputs if name.startswith("onnx::") and name in state]
        if node.operator == "MatMul" and anonymous and node.outputs:
            products[node.outputs[0]] = anonymous[0]
    renamed = dict(state)
    for node in nodes:
        if node.operator != "Add" or len(node.inputs) != 2:
            continue
        for bias, product in (node.inputs, node.inputs[::-1]):
            matrix = products.get(product)
            if bias.endswith(".bias") and bias in state and matrix in renamed and renamed[matrix].ndim == 2:
                weight = np.ascontiguousarray(renamed.pop(matrix).T)
                renamed[bias.removesuffix("bias") + "weight"] = weight
    return renamed


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of every field of a message; numbers of fixed width are passed over."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(content, at)
            yield number, value
        elif kind == _BYTES:
            length, at = _varint(content, at)
            if at + length > len(content):
                raise ValueError(f"field {number} has {length} bytes, more than are left")
            yield number, content[at : at + length]
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"field {number} is of the unknown kind {kind}")


def _varints(content: memoryview) -> Iterator[int]:
    at = 0
    while at < len(content):
        value, at = _varint(content, at)
        yield value


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number has more than ten bytes")


def _text(content: memoryview) -> str:
    return bytes(content).decode("utf-8")
