"""What a run says of the features it began with: the numbers of scikit-learn, and nothing of the run changes by it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from photos import COLOURS, MORE_COLOURS, write_photos
from PIL import Image
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import KNeighborsClassifier
from weights import write_weights

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models.card import read_best
from finetune_jax.models.weights import pretrained
from finetune_jax.runs import finetune, frozen_probe

PROBES_FEATURES = True

ONE = Replicas((jax.devices()[0],))
PALE = {"apple": (112, 100, 100), "leaf": (100, 112, 100), "sky": (100, 100, 112)}  # hard to tell apart


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    root = tmp_path_factory.mktemp("probed")
    write_weights(root / "weights.npz")
    for number, split in enumerate(("train", "validation", "test")):
        write_photos(root / "photos" / split, per_class=8, size=8, seed=number, colours=PALE)
    return FinetuneConfig(
        dataset=f"folder:{root / 'photos'}",
        cache_dir=str(root / "cache"),
        pretrained=str(root / "weights.npz"),
        network="resnet26_policy",
        width=0.125,
        image_size=8,
        batch_size=8,
        epochs=1,
        test_resize=8,
    )


def features_of(config: FinetuneConfig, folder: Path, classes: Any, *, mirrored: bool) -> Any:
    """Features and labels of a folder of images, read and put through the network by hand."""
    origin = pretrained.resolve(config.pretrained, architecture="resnet26_policy", width=0.125)
    files = [file for name in sorted(classes) for file in sorted((folder / name).glob("*.png"))]
    shown = [Image.open(file).resize((8, 8), Image.Resampling.BICUBIC) for file in files]
    pixels = np.stack([np.asarray(image, np.float32) for image in shown]) / 255
    normalized = (pixels - np.asarray(origin.mean)) / np.asarray(origin.std)
    found = np.asarray(origin.network.embed(origin.variables, normalized.astype(np.float32)))
    if mirrored:
        found = found + np.asarray(
            origin.network.embed(origin.variables, normalized[:, :, ::-1].astype(np.float32))
        )
    return found, np.array([sorted(classes).index(file.parent.name) for file in files])


def test_the_probes_are_those_of_scikit_learn_and_change_nothing(base, tmp_path, capsys):
    summaries = {}
    for probe in (True, False):
        config = dataclasses.replace(base, probe=probe, workdir=str(tmp_path / str(probe)))
        summaries[probe] = finetune.run(config, ONE)
    assert "probe" not in summaries[False]
    trained = [jax.tree.leaves(read_best(tmp_path / name)[1]) for name in ("True", "False")]
    assert all(np.array_equal(a, b) for a, b in zip(*trained, strict=True))
    scores = [
        [row["validation_loss"] for row in RunDirectory(tmp_path / name).read_metrics()]
        for name in ("True", "False")
    ]
    assert scores[0] == scores[1]

    probed = summaries[True]["probe"]
    photos = Path(base.dataset.removeprefix("folder:"))
    train, labels = features_of(base, photos / "train", PALE, mirrored=False)
    mean, deviation = train.mean(0), np.where(train.std(0) > 0, train.std(0), 1)
    ridge = RidgeClassifierCV(alphas=np.logspace(-1, 5, 7)).fit((train - mean) / deviation, labels)
    near = KNeighborsClassifier(5, metric="cosine", weights="distance").fit(train, labels)
    assert probed["images"] == 24
    for split in ("validation", "test"):
        others, truth = features_of(base, photos / split, PALE, mirrored=False)
        right = ridge.score((others - mean) / deviation, truth)
        assert right < 1, "the images are too easy to tell probes apart"
        # The network's own rounding may turn an image at the border.
        assert probed["ridge"][f"{split}_accuracy"] == pytest.approx(right, abs=1.1 / len(truth))
        right = near.score(others, truth)
        assert probed["neighbours"][f"{split}_accuracy"] == pytest.approx(right, abs=1.1 / len(truth))
    page = (tmp_path / "True" / "report.html").read_text()
    assert "test accuracy of a linear probe, before fine-tuning" in page
    assert "before fine-tuning" not in (tmp_path / "False" / "report.html").read_text()


def test_retrieval_is_compared_with_the_frozen_features_themselves(base, tmp_path):
    colours = {**COLOURS, **MORE_COLOURS}
    photos = write_photos(tmp_path / "photos", per_class=10, size=8, colours=colours)
    config = dataclasses.replace(
        base, dataset=f"folder:{photos}", protocol="retrieval", workdir=str(tmp_path / "run")
    )
    summary = finetune.run(config, ONE)
    tested = sorted(colours)[3:]  # the second half of the classes
    found, labels = features_of(base, photos, tested, mirrored=True)
    distances = pairwise_distances(found, metric="cosine")
    np.fill_diagonal(distances, np.inf)
    expected = (labels[distances.argmin(1)] == labels).mean()
    measured = summary["probe"]["frozen"]["test_recall_at_1"]
    assert measured == pytest.approx(expected, abs=1.1 / len(labels))
    assert 0 < expected < 1 or summary["images"]["test"] == len(labels)


def test_at_most_so_many_training_images_are_learned_from_and_the_seed_says_which(
    base, tmp_path, monkeypatch
):
    monkeypatch.setattr(frozen_probe, "MOST", 10)
    program, _ = finetune.prepare(dataclasses.replace(base, workdir=str(tmp_path / "run")), ONE)
    seen: list[np.ndarray] = []

    def learn(features: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
        seen.append(features)
        return np.zeros(len(others), int)

    monkeypatch.setattr(frozen_probe, "PROBES", {"ridge": learn})
    found = frozen_probe.scores(program)
    assert found["images"] == 10
    assert found["ridge"] == {"validation_accuracy": 1 / 3, "test_accuracy": 1 / 3}
    assert frozen_probe.scores(program) is found, "runs that share a program probe once"
    again, _ = finetune.prepare(dataclasses.replace(base, workdir=str(tmp_path / "again")), ONE)
    assert {**frozen_probe.scores(again), "seconds": 0} == {**found, "seconds": 0}
    assert len(seen) == 4
    assert all(features.shape == (10, 32) and np.array_equal(features, seen[0]) for features in seen)


@pytest.mark.parametrize("change", [{"pretrained": "none"}, {"method": "scratch"}, {"probe": False}])
def test_without_pretrained_features_there_is_nothing_to_probe(change, base, tmp_path):
    config = dataclasses.replace(base, **change, workdir=str(tmp_path / "run"))
    program, _ = finetune.prepare(config, ONE)
    assert not frozen_probe.has_one(program)


def test_a_run_from_before_probes_ends_as_it_began(base, tmp_path):
    def cut(row: Any) -> None:
        raise KeyboardInterrupt

    config = dataclasses.replace(base, workdir=str(tmp_path / "run"), epochs=2)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(config, ONE, after_epoch=cut)
    file = tmp_path / "run" / "flags.json"
    flags = json.loads(file.read_text())
    del flags["probe"]
    file.write_text(json.dumps(flags))
    assert "probe" not in finetune.run(config, ONE)
