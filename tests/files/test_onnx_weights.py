"""Weights of ONNX files, written by the format's own library."""

from pathlib import Path

import numpy as np
import pytest

from finetune_jax.errors import UserError
from finetune_jax.files.weight_files import read_write

onnx = pytest.importorskip("onnx")

RANDOM = np.random.default_rng(0)
MATRIX = RANDOM.normal(size=(3, 4)).astype(np.float32)
BIAS = RANDOM.normal(size=4).astype(np.float32)
KERNEL = RANDOM.normal(size=(2, 3, 5, 5)).astype(np.float16)


def write(path: Path, nodes: list, tensors: list) -> Path:
    graph = onnx.helper.make_graph(nodes, "g", [], [], tensors)
    onnx.save(onnx.helper.make_model(graph), path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["product"], alpha=1.0),
        onnx.helper.make_node("Add", ["fc1.bias", "product"], ["y"]),
    ]
    tensors = [
        onnx.numpy_helper.from_array(MATRIX, "onnx::MatMul_7"),
        onnx.helper.make_tensor("fc1.bias", onnx.TensorProto.FLOAT, [4], BIAS.tolist()),
        onnx.numpy_helper.from_array(KERNEL, "conv.weight"),
        onnx.numpy_helper.from_array(np.array([2, 3]), "shape"),
    ]
    return write(tmp_path / "net.onnx", nodes, tensors)


def test_a_matrix_has_the_name_of_the_bias_that_is_added_to_its_product(file: Path) -> None:
    state = read_write.read(file)
    assert set(state) == {"fc1.weight", "fc1.bias", "conv.weight", "shape"}
    np.testing.assert_array_equal(state["fc1.weight"], MATRIX.T)
    np.testing.assert_array_equal(state["fc1.bias"], BIAS)
    np.testing.assert_array_equal(state["conv.weight"], KERNEL)
    assert state["shape"].tolist() == [2, 3]


def test_a_matrix_without_a_bias_keeps_the_name_of_the_exporter(tmp_path: Path) -> None:
    tensors = [onnx.numpy_helper.from_array(MATRIX, "onnx::MatMul_7")]
    nodes = [onnx.helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["y"])]
    assert list(read_write.read(write(tmp_path / "net.onnx", nodes, tensors))) == ["onnx::MatMul_7"]


@pytest.mark.parametrize("kept", [5, 60, 0.5, 0.9])
def test_a_file_cut_short_is_refused(file: Path, kept: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: kept if kept > 1 else int(kept * len(content))])
    with pytest.raises(
        UserError, match=r"net\.onnx (is no intact ONNX file|holds no arrays|has \d+ numbers)"
    ):
        read_write.read(file)


def test_a_file_with_its_numbers_elsewhere_is_refused(tmp_path: Path) -> None:
    tensor = onnx.numpy_helper.from_array(MATRIX, "fc1.weight")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(UserError, match=r"keeps 'fc1\.weight' in another file; save it as one file"):
        read_write.read(write(tmp_path / "net.onnx", [], [tensor]))
