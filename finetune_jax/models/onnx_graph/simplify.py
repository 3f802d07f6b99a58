"""Fewer nodes for the same values: scales and offsets of channels go into the convolution before them."""

from collections import Counter
from typing import Any

import numpy as np

Node = tuple[str, list[str], list[str], dict[str, Any]]


def simplified(
    nodes: list[Node], constants: dict[str, np.ndarray], output: str
) -> tuple[list[Node], dict[str, np.ndarray]]:
    """Nodes and constants without those that can be folded, and without what nothing reads."""
    nodes, constants = _folded(_with_minima(nodes), dict(constants), output)
    needed = {output}
    kept = []
    for node in reversed(nodes):
        if needed & set(node[2]):
            kept.append(node)
            needed |= set(node[1])
    return kept[::-1], {name: value for name, value in constants.items() if name in needed}


def _with_minima(nodes: list[Node]) -> list[Node]:
    """A choice of ``limit`` wherever ``x`` reaches it, else of ``x`` (or of what ReLU makes of it), is a minimum."""
    made = {outputs[0]: (operator, inputs) for operator, inputs, outputs, _ in nodes}
    changed: list[Node] = []
    for operator, inputs, outputs, how in nodes:
        if operator == "Where":
            condition, limit, value = inputs
            before = made.get(value, ("", []))
            reached = value if made.get(condition) == ("GreaterOrEqual", [value, limit]) else None
            if before[0] == "Relu" and made.get(condition) == ("GreaterOrEqual", [before[1][0], limit]):
                reached = value
            if reached is not None:
                changed.append(("Min", [value, limit], outputs, {}))
                continue
        changed.append((operator, inputs, outputs, how))
    return changed


def _folded(
    nodes: list[Node], constants: dict[str, np.ndarray], output: str
) -> tuple[list[Node], dict[str, np.ndarray]]:
    readers = Counter(name for _, inputs, _, _ in nodes for name in inputs)
    readers[output] += 1
    renamed: dict[str, str] = {}
    convolutions: dict[str, Node] = {}
    kept: list[Node] = []
    for operator, inputs, outputs, attributes in nodes:
        inputs = [renamed.get(name, name) for name in inputs]
        node = (operator, inputs, outputs, attributes)
        if operator in ("Mul", "Add", "Sub") and (target := _target(node, convolutions, constants, readers)):
            convolution, factor = target
            _absorb(convolution, operator, factor, constants)
            renamed[outputs[0]] = convolution[2][0]
            # The convolution's result now has the readers of what was folded into it.
            readers[convolution[2][0]] = readers[outputs[0]]
            continue
        if operator == "Conv" and inputs[1] in constants:
            convolutions[outputs[0]] = node
        kept.append(node)
    if output in renamed:
        kept.append(("Identity", [renamed[output]], [output], {}))
    return kept, constants


def _target(
    node: Node, convolutions: dict[str, Node], constants: dict[str, np.ndarray], readers: Counter[str]
) -> tuple[Node, np.ndarray] | None:
    """The convolution that a scale or offset of channels can go into, and the scale or offset ``[O]``."""
    operator, inputs, _, _ = node
    orders = [inputs] if operator == "Sub" else [inputs, inputs[::-1]]
    for name, other in orders:
        if name not in convolutions or other not in constants or readers[name] != 1:
            continue
        outputs = constants[convolutions[name][1][1]].shape[0]
        value = constants[other]
        if value.size == 1 or (value.shape[-3:] == (outputs, 1, 1) and value.size == outputs):
            return convolutions[name], np.broadcast_to(value.reshape(-1), (outputs,))
    return None


def _absorb(convolution: Node, operator: str, value: np.ndarray, constants: dict[str, np.ndarray]) -> None:
    _, inputs, outputs, _ = convolution
    kernel = constants[inputs[1]]
    bias = constants[inputs[2]] if len(inputs) > 2 else np.zeros(len(kernel), kernel.dtype)
    if operator == "Mul":
        kernel = kernel * value[:, None, None, None]
        bias = bias * value
    else:
        bias = bias + value if operator == "Add" else bias - value
    # Names of its own: another convolution may share the constants.
    names = [f"{outputs[0]}_kernel", f"{outputs[0]}_bias"]
    constants[names[0]], constants[names[1]] = kernel.astype(kernel.dtype), bias.astype(kernel.dtype)
    inputs[1:] = names
