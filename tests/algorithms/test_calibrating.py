"""A temperature has the least loss of all, and a threshold the largest F1 of all."""

import numpy as np
import pytest
from sklearn import metrics

from finetune_jax.algorithms import calibrating, ordinal

RNG = np.random.default_rng(0)
GRID = np.exp(np.linspace(np.log(0.1), np.log(10), 801))
STRIDE = 20


def best_of_grid(cost) -> float:
    """Costs fall to their least and rise from there, so that it lies next to the best of a coarse grid."""
    best = STRIDE * int(np.argmin([cost(t) for t in GRID[::STRIDE]]))
    near = GRID[max(0, best - STRIDE) : best + STRIDE + 1]
    return near[np.argmin([cost(t) for t in near])]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_the_temperature_of_classes_has_the_least_cross_entropy():
    labels = RNG.integers(5, size=4000)
    logits = 3 * (np.eye(5)[labels] + RNG.normal(size=(4000, 5)))
    found = calibrating.temperature_of_classes(logits, labels)
    expected = best_of_grid(lambda t: metrics.log_loss(labels, softmax(logits / t)))
    assert found == pytest.approx(expected, rel=0.02)
    assert found > 2


def test_images_that_are_all_right_give_no_temperature_of_zero():
    labels = np.arange(40) % 4
    found = calibrating.temperature_of_classes(5.0 * np.eye(4)[labels], labels)
    chance = softmax(5.0 * np.eye(4)[labels] / found).max()
    assert chance == pytest.approx(41 / 42, abs=1e-4)  # Platt's estimate for 40 of 40


def test_the_temperature_of_labels_has_the_least_binary_cross_entropy():
    logits = 4 * RNG.normal(size=(3000, 3))
    targets = RNG.random((3000, 3)) < 1 / (1 + np.exp(-logits / 2.5))
    found = calibrating.temperature_of_labels(logits, targets)
    assert found == pytest.approx(2.5, rel=0.08)
    expected = best_of_grid(
        lambda t: metrics.log_loss(targets.ravel(), 1 / (1 + np.exp(-logits / t)).ravel())
    )
    assert found == pytest.approx(expected, rel=0.02)


def test_the_temperature_of_grades_has_the_least_loss():
    logits = 3 * RNG.normal(size=(3000, 3))
    chances = np.asarray(ordinal.probabilities(logits / 2))
    labels = (RNG.random((3000, 1)) > chances.cumsum(1)[:, :-1]).sum(1)
    found = calibrating.temperature_of_grades(logits, labels)
    assert found == pytest.approx(2, rel=0.1)
    expected = best_of_grid(lambda t: float(np.mean(ordinal.loss(np.float32(logits / t), labels))))
    assert found == pytest.approx(expected, rel=0.02)


def test_a_threshold_has_the_largest_f1_of_all():
    chances = np.round(RNG.random((80, 3)), 2)
    targets = (RNG.random((80, 3)) < chances).astype(float)
    targets[:, 2] = 0
    found = calibrating.thresholds(chances, targets)
    for number in range(2):
        of = [
            metrics.f1_score(targets[:, number], chances[:, number] >= cut) for cut in np.arange(0, 1, 0.005)
        ]
        assert metrics.f1_score(targets[:, number], chances[:, number] >= found[number]) == max(of)
    assert found[2] == 0.5


def test_the_loss_of_grades_is_minus_the_logarithm_of_their_probability():
    logits = RNG.normal(size=(6, 4)).astype(np.float32)
    steps = 1 / (1 + np.exp(-logits))
    expected = np.array(
        [[np.prod(s[:grade]) * (1 - s[grade] if grade < 4 else 1) for grade in range(5)] for s in steps]
    )
    np.testing.assert_allclose(ordinal.probabilities(logits), expected, rtol=1e-5)
    labels = np.array([0, 1, 2, 3, 4, 2])
    losses = ordinal.loss(logits, labels)
    np.testing.assert_allclose(losses, -np.log(expected[np.arange(6), labels]), rtol=1e-5)
    np.testing.assert_allclose(ordinal.loss(logits, np.eye(5, dtype=np.float32)[labels]), losses, rtol=1e-5)
