"""Logistic regression against scikit-learn's, and the choice of its penalty."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from benchmarks.linear_probe import chosen_penalty
from finetune_jax.algorithms import linear_probe


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 6))
    labels = (features[:, :3] + rng.normal(size=(120, 3)) / 3).argmax(axis=1)
    return 3 * features + rng.uniform(-9, 9, 6), labels


def test_logistic_regression_is_that_of_scikit_learn(data):
    features, labels = data
    kernel, bias = linear_probe.logistic(features, labels, 3, penalty=0.05)
    scaled = StandardScaler().fit_transform(features)
    expected = LogisticRegression(C=1 / (0.05 * 120), tol=1e-10, max_iter=5000).fit(scaled, labels)
    found = features @ kernel + bias
    wanted = expected.decision_function(scaled)
    # A number that all logits have in common changes nothing.
    np.testing.assert_allclose(
        found - found.mean(axis=1, keepdims=True),
        wanted - wanted.mean(axis=1, keepdims=True),
        atol=5e-3,
    )


def test_a_class_without_images_and_a_feature_that_never_varies_do_no_harm(data):
    features, labels = data
    features = np.concatenate([features, np.full((120, 1), 7.0)], axis=1)
    kernel, bias = linear_probe.logistic(features, labels, 4, penalty=0.05)
    assert kernel.shape == (7, 4)
    assert np.isfinite(kernel).all()
    assert set((features @ kernel + bias).argmax(axis=1)) == {0, 1, 2}


def test_noise_wants_a_larger_penalty_than_features_that_tell_the_classes(data):
    _, labels = data
    held = np.arange(0, 120, 4)
    noise = np.random.default_rng(1).normal(size=(120, 40))
    clear = np.eye(3)[labels]
    assert chosen_penalty(clear, labels, 3, held) < chosen_penalty(noise, labels, 3, held)
    others = np.delete(np.arange(120), held)

    def chosen(features):
        return linear_probe.chosen(features[others], labels[others], 3, features[held], labels[held])

    (loss, penalty, head), (_, of_noise, _) = chosen(clear), chosen(noise)
    assert penalty < of_noise
    assert loss == pytest.approx(log_loss(labels[held], softmax(clear[held] @ head[0] + head[1], axis=1)))


def test_in_proportion_all_features_are_divided_by_one_number(data):
    features, labels = data
    kernel, bias = linear_probe.logistic(features, labels, 3, penalty=0.05, in_proportion=True)
    scaled = (features - features.mean(axis=0)) / np.sqrt(features.var(axis=0).mean())
    expected = LogisticRegression(C=1 / (0.05 * 120), tol=1e-10, max_iter=5000).fit(scaled, labels)
    logits, oracle = features @ kernel + bias, expected.decision_function(scaled)
    np.testing.assert_allclose(
        logits - logits.mean(axis=1, keepdims=True), oracle - oracle.mean(axis=1, keepdims=True), atol=5e-3
    )
