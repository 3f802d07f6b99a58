"""The file's structure: nodes and constants as an ``onnx.ModelProto``."""

from typing import Any

import numpy as np

from finetune_jax.errors import UserError
from finetune_jax.models.onnx_graph.graph import OPSET
from finetune_jax.models.onnx_graph.simplify import Node
from finetune_jax.models.onnx_graph.tensors import Batch, Tensor

_IR_VERSION = 10  # read by every runtime of the last years


def build(
    nodes: list[Node],
    constants: dict[str, np.ndarray],
    images: Tensor,
    input_name: str,
    output: Tensor,
    computed_name: str,
    output_name: str,
    metadata: dict[str, str],
) -> Any:
    """The model, checked.

    Raises:
        UserError: ``onnx`` is not installed.
    """
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ImportError as error:
        raise UserError('--format=onnx needs the package onnx: pip install "finetune-jax[onnx]"') from error

    def attribute(value: Any) -> Any:
        return helper.np_dtype_to_tensor_dtype(value) if isinstance(value, np.dtype) else value

    def described(name: str, tensor: Tensor) -> Any:
        sizes = ["N" if isinstance(size, Batch) else size for size in tensor.shape]
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(tensor.dtype), sizes)

    made = [
        helper.make_node(
            operator, inputs, outputs, name=outputs[0], **{k: attribute(v) for k, v in how.items()}
        )
        for operator, inputs, outputs, how in nodes
    ]
    made.append(helper.make_node("Identity", [computed_name], [output_name], name=output_name))
    graph = helper.make_graph(
        made,
        "finetune_jax",
        [described(input_name, images)],
        [described(output_name, output)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="finetune_jax",
        ir_version=_IR_VERSION,
    )
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model
