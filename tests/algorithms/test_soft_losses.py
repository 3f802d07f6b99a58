"""Losses of soft labels against loops over classes, and weights of classes by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from finetune_jax.algorithms import losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=3, size=(6, 5)).astype(np.float32)
TARGETS = RNG.dirichlet(np.ones(5), size=6).astype(np.float32)


def softmax(row):
    total = math.fsum(math.exp(float(value)) for value in row)
    return [math.exp(float(value)) / total for value in row]


def test_cross_entropy_of_soft_labels_is_the_sum_over_the_classes():
    expected = [
        -sum(t * math.log(p) for t, p in zip(target, softmax(row), strict=True))
        for row, target in zip(LOGITS, TARGETS, strict=True)
    ]
    np.testing.assert_allclose(losses.soft_cross_entropy(LOGITS, TARGETS), expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_hard_labels_are_soft_labels_of_one_class(smoothing):
    labels = RNG.integers(5, size=6)
    targets = (1 - smoothing) * np.eye(5)[labels] + smoothing / 5
    np.testing.assert_allclose(
        losses.soft_cross_entropy(LOGITS, targets.astype(np.float32)),
        losses.cross_entropy(LOGITS, labels, label_smoothing=smoothing),
        rtol=1e-5,
    )


def test_binary_cross_entropy_asks_of_every_class_by_itself():
    expected = []
    for row, target in zip(LOGITS, TARGETS, strict=True):
        terms = []
        for logit, t in zip(row, target, strict=True):
            p = 1 / (1 + math.exp(-float(logit)))
            terms.append(-(t * math.log(p) + (1 - t) * math.log(1 - p)))
        expected.append(sum(terms) / 5)
    np.testing.assert_allclose(losses.binary_cross_entropy(LOGITS, TARGETS), expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_weighs_classes_by_what_is_missing(gamma):
    expected = [
        -sum(t * (1 - p) ** gamma * math.log(p) for t, p in zip(target, softmax(row), strict=True))
        for row, target in zip(LOGITS, TARGETS, strict=True)
    ]
    np.testing.assert_allclose(losses.focal(LOGITS, TARGETS, gamma), expected, rtol=1e-5)


def test_focal_loss_without_focus_is_the_cross_entropy():
    np.testing.assert_allclose(
        losses.focal(LOGITS, TARGETS, 0.0), losses.soft_cross_entropy(LOGITS, TARGETS), rtol=1e-6
    )


@pytest.mark.parametrize("loss", [losses.soft_cross_entropy, losses.binary_cross_entropy, losses.focal])
def test_gradients_are_right_and_finite_at_extreme_logits(loss):
    check_grads(
        lambda logits: loss(logits, jnp.asarray(TARGETS)),
        (jnp.asarray(LOGITS),),
        order=1,
        modes=["rev"],
        rtol=0.02,
    )
    extreme = jnp.array([[500.0, -500.0], [-500.0, 500.0]])
    sure = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    assert np.isfinite(loss(extreme, sure)).all()
    assert np.isfinite(jax.grad(lambda logits: loss(logits, sure).sum())(extreme)).all()


def test_weights_of_classes_fall_with_a_power_of_their_frequency():
    counts = np.array([1, 4, 16, 0])
    np.testing.assert_allclose(losses.balanced_class_weights(counts, 1.0), [7, 7 / 4, 7 / 16, 0], rtol=1e-6)
    half = losses.balanced_class_weights(counts, 0.5)
    np.testing.assert_allclose(half[:3] / half[0], [1, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose((half * counts).sum() / counts.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(losses.balanced_class_weights(counts, 0.0)[:3], 1, rtol=1e-6)
