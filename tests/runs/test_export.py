"""A run as a file of another format: what is written computes what the run predicts."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import finetune_jax
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.files.weight_files import read_write
from finetune_jax.runs import export, finetune, model_card

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("export") / "run"
    config = FinetuneConfig(
        dataset="digits", workdir=str(workdir), method="feature_extractor", epochs=1, test_fraction=0.8
    )
    finetune.run(config, Replicas(jax.devices()[:1]))
    return workdir


def test_an_onnx_file_gives_the_probabilities_of_the_run_for_any_number_of_images(
    run: Path, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "new folder" / "digits.onnx"
    written = export.export(run, file, format="onnx")
    assert written.bytes == file.stat().st_size
    assert written.difference < 1e-4
    session = onnxruntime.InferenceSession(str(file))
    (images,) = session.get_inputs()
    (probabilities,) = session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["N", 32, 32, 3])
    assert (probabilities.name, probabilities.shape) == ("probabilities", ["N", 10])
    predictor = finetune_jax.load(run)
    for count in (1, 5):
        computed = session.run(None, {"images": IMAGES[:count]})[0]
        np.testing.assert_allclose(computed, predictor(IMAGES[:count]), atol=1e-4)
    names = session.get_modelmeta().custom_metadata_map["class_names"]
    assert json.loads(names) == list(predictor.class_names)


def test_a_stablehlo_file_gives_the_probabilities_of_the_run(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "digits.stablehlo"
    export.export(run, file, format="stablehlo")
    program = jax.export.deserialize(bytearray(file.read_bytes()))
    for count in (1, 5):
        computed = program.call(IMAGES[:count])
        np.testing.assert_allclose(computed, finetune_jax.load(run)(IMAGES[:count]), atol=1e-4)


def test_a_safetensors_file_is_a_pretrained_network_again(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "digits.safetensors"
    export.export(run, file, format="safetensors")
    state = read_write.read(file)
    assert state["linear.weight"].shape == (10, 96)
    from safetensors import safe_open

    with safe_open(file, "np") as opened:
        assert json.loads(opened.metadata()["class_names"]) == [str(digit) for digit in range(10)]


def test_logits_are_written_on_request(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    export.export(run, tmp_path / "logits.onnx", format="onnx", softmax=False)
    assert [output.name for output in onnx.load(tmp_path / "logits.onnx").graph.output] == ["logits"]


def test_what_computes_something_else_is_removed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    real = export.onnx_graph.to_onnx
    monkeypatch.setattr(export.onnx_graph, "to_onnx", lambda f, *a, **k: real(lambda x: 0.9 * f(x), *a, **k))
    with pytest.raises(UserError, match="differs from the run"):
        export.export(run, tmp_path / "wrong.onnx", format="onnx")
    assert not (tmp_path / "wrong.onnx").exists()


def test_a_directory_without_a_checkpoint_and_unknown_wishes_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no directory .*absent"):
        export.export(tmp_path / "absent", tmp_path / "x.onnx", format="onnx")
    with pytest.raises(UserError, match="--format=tflite is not known"):
        export.export(run, tmp_path / "x", format="tflite")
    with pytest.raises(UserError, match="--precision=int8 is for --format=onnx"):
        export.export(run, tmp_path / "x", format="stablehlo", precision="int8")


def test_the_model_card_has_the_results_of_the_run(run: Path) -> None:
    text = model_card.of_run(run, {"digits.onnx": "onnx"}, name="my digits")
    summary = json.loads((run / "summary.json").read_text())
    assert f"{100 * summary['test_accuracy']:.2f} %" in text
    assert text.count("# my digits") == 1
    recall = json.loads((run / "summary.json").read_text())["test_balanced_accuracy"]
    rows = [line.split(" | ") for line in text.splitlines() if re.match(r"\| \d \| ", line)]
    assert sum(float(row[2].split()[0]) for row in rows) / 10 == pytest.approx(100 * recall, abs=0.01)
    assert "| `--test_fraction` | 0.8 |" in text
    assert "`digits.onnx`: onnx" in text
    with pytest.raises(UserError, match="is no run directory"):
        model_card.of_run(run / "checkpoints")


def test_images_of_the_run_are_those_its_network_sees(run: Path) -> None:
    images = export.images_of(run, 7, "test")
    assert images is not None
    assert (images.shape, images.dtype) == ((7, 32, 32, 3), np.uint8)
