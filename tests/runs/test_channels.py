"""A run on images of five channels, from arrays to an exported network."""

import json

import numpy as np
import pytest

import finetune_jax
from finetune_jax.runs import export

LABELS = np.arange(40) % 2
IMAGES = np.random.default_rng(0).integers(0, 100, (40, 16, 16, 5)).astype(np.uint8)
IMAGES[LABELS == 1, :, :, 4] += 150


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finetune_jax.fit(
        IMAGES, LABELS, workdir=tmp_path_factory.mktemp("channels") / "run", channels=5, image_size=16, epochs=2,
        batch_size=12, learning_rate=0.05, normalization="dataset", method="last_k", k=1,
    )  # fmt: skip


def test_the_run_and_its_checkpoint_know_the_channels(run):
    predictor = run.predictor
    assert len(predictor.card.mean) == predictor.card.preprocessing.channels == 5
    assert run(IMAGES[:3]).shape == (3, 2)
    assert finetune_jax.evaluate(run)["images"] == run.summary["images"]["test"]
    assert (run.directory / "report.html").exists()
    with pytest.raises(ValueError, match=r"an array \[h, w, 5\]"):
        run(IMAGES[0, :, :, :3])


def test_the_exported_network_takes_the_channels(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    written = export.export(run.directory, tmp_path / "five.onnx", format="onnx")
    assert written.difference < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "five.onnx"))
    assert session.get_inputs()[0].shape == ["N", 16, 16, 5]
    card = json.loads(session.get_modelmeta().custom_metadata_map["card"])
    assert card["preprocessing"]["channels"] == 5
