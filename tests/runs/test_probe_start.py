"""Runs from a linear probe: which head they start with, and that batch norms stay as they are."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from small_runs import run_on_photos, small_run

from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.models.card import read_best
from finetune_jax.runs import finetune, probe_start
from finetune_jax.training.rehearsal import held_out

ONE = Replicas((jax.devices()[0],))


@pytest.fixture(scope="module", params=["flip", "random_crop"])
def config(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("probe")
    settings = {"from_probe": True, "epochs": 1, "learning_rate": 0.01, "augmentation": request.param}
    return run_on_photos(home, **settings, workdir=str(home / "run"))


@pytest.fixture(scope="module")
def program(config):
    return finetune.prepare(config, ONE)[0]


def test_the_head_is_logistic_regression_on_what_its_classifier_sees(program):
    images = program.images.splits["train"]
    labels, start = images.labels, program.start
    rows = np.delete(np.arange(len(labels)), held_out(len(labels), 0))
    side = (images.images.shape[1] - 8) // 2  # what is stored beside the centre, for crops
    centre = slice(side, side + 8)
    pixels = program.normalize(np.asarray(images.images[rows][:, centre, centre], np.float32))
    network = start.network
    # The input of the classifier, from its output with two heads that differ in one kernel.
    kernel = np.asarray(start.variables["params"]["head"]["classifier"]["kernel"])
    head = {**start.variables["params"]["head"]}
    features = []
    for column in range(len(kernel)):
        unit = np.zeros_like(kernel)
        unit[column, 0] = 1
        classifier = {"kernel": unit, "bias": np.zeros(kernel.shape[1], np.float32)}
        params = {**start.variables["params"], "head": {**head, "classifier": classifier}}
        features.append(np.asarray(network.apply({**start.variables, "params": params}, pixels))[:, 0])
    features = np.stack(features, axis=1).astype(np.float64)
    scaled = (features - features.mean(axis=0)) / np.sqrt(features.var(axis=0).mean())
    logits = np.asarray(network.apply(program.variables, pixels), np.float64)
    errors = []
    for penalty in (1e-3, 1e-2, 0.1, 1, 10):
        oracle = LogisticRegression(C=1 / (penalty * len(rows)), tol=1e-8, max_iter=5000)
        expected = oracle.fit(scaled, labels[rows]).decision_function(scaled)
        centred = expected - expected.mean(axis=1, keepdims=True)
        errors.append(np.abs(logits - logits.mean(axis=1, keepdims=True) - centred).max())
    assert min(errors) < 0.05, errors


def test_training_leaves_the_statistics_of_batch_norms_as_pretrained(program, config):
    finetune.run(config, ONE)
    _, variables = read_best(Path(config.workdir))
    for name, statistics in program.start.variables["batch_stats"].items():
        for before, after in zip(
            jax.tree.leaves(statistics), jax.tree.leaves(variables["batch_stats"][name]), strict=True
        ):
            np.testing.assert_array_equal(before, after)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), program.variables["params"], variables["params"])
    assert all(jax.tree.leaves(moved["block_01"]))


def test_a_search_and_the_run_after_it_fit_and_compile_once(program, config):
    found = dataclasses.replace(config, learning_rate=0.3)
    assert probe_start.built(program, config) is probe_start.built(program, found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pretrained": "none", "network": "resnet26"}, "--from_probe has no meaning with --pretrained=none"),
        ({"keep_head": True}, "--from_probe contradicts --keep_head"),
        ({"method": "l2_sp"}, "--from_probe=true is for --method=standard"),
    ],
)
def test_what_has_no_probe_is_refused(config, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        finetune.run(dataclasses.replace(config, workdir=str(tmp_path / "run"), **settings), ONE)


def test_retrieval_has_no_probe(tmp_path):
    config = small_run(tmp_path, protocol="retrieval", from_probe=True, workdir=str(tmp_path / "run"))
    with pytest.raises(UserError, match="--from_probe is for images of one class each"):
        finetune.prepare(config, ONE)


def test_more_classes_than_can_be_fitted_in_a_moment_are_refused(program, config, monkeypatch):
    monkeypatch.setattr(probe_start, "MOST_CLASSES", 2)
    with pytest.raises(UserError, match="--from_probe is for at most 2 classes"):
        probe_start.built(program, config)
