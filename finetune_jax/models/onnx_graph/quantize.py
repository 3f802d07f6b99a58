"""Smaller ONNX models: float16, and int8 calibrated with images. By the tools of onnxruntime."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from finetune_jax.errors import UserError

_CALIBRATION_BATCH = 8
_NEEDED = '--precision={} needs the package onnxruntime: pip install "finetune-jax[onnx]"'


def float16(model: Any) -> Any:
    """The model with float16 weights and computation; inputs and outputs keep their types.

    Args:
        model: an ``onnx.ModelProto`` in float32.

    Raises:
        UserError: onnxruntime is not installed.
    """
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise UserError(_NEEDED.format("float16")) from error
    return convert_float_to_float16(model, keep_io_types=True)


def int8(model: Any, input_name: str, images: np.ndarray) -> Any:
    """The model with int8 weights and activations, whose ranges are those that some images have.

    Args:
        model: an ``onnx.ModelProto`` in float32.
        input_name: of the images.
        images: uint8 ``[N, H, W, 3]``.

    Raises:
        UserError: onnxruntime is not installed.
    """
    try:
        import onnx
        from onnxruntime import quantization
    except ImportError as error:
        raise UserError(_NEEDED.format("int8")) from error

    class Images(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(
                images[start : start + _CALIBRATION_BATCH]
                for start in range(0, len(images), _CALIBRATION_BATCH)
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {input_name: batch}

    with tempfile.TemporaryDirectory() as folder:
        before, prepared, after = (
            Path(folder) / name for name in ("float32.onnx", "prepared.onnx", "int8.onnx")
        )
        before.write_bytes(model.SerializeToString())
        quantization.shape_inference.quant_pre_process(str(before), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(after),
            Images(),
            per_channel=True,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
        smaller = onnx.load(str(after))
    onnx.helper.set_model_props(smaller, {entry.key: entry.value for entry in model.metadata_props})
    return smaller
