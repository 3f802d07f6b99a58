"""Intervals and calibration, against SciPy, closed forms and loops."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from finetune_jax.algorithms import uncertainty


@pytest.mark.parametrize(("successes", "count"), [(0, 1), (1, 1), (0, 9), (9, 9), (48, 90), (3, 1000)])
def test_the_wilson_interval_is_that_of_scipy(successes, count):
    expected = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(uncertainty.wilson_interval(successes, count), expected, atol=1e-12)


@pytest.mark.parametrize(("successes", "count"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes, count):
    with pytest.raises(ValueError, match=f"got {successes} of {count}"):
        uncertainty.wilson_interval(successes, count)


def test_the_bootstrap_interval_of_a_mean_is_that_of_the_central_limit_theorem():
    values = np.random.default_rng(1).normal(3, 2, size=400)
    low, high = uncertainty.bootstrap_interval(lambda drawn: float(values[drawn].mean()), 400)
    half = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)


def test_draws_in_which_a_statistic_is_undefined_do_not_count():
    low, high = uncertainty.bootstrap_interval(lambda drawn: math.nan if drawn[0] == 0 else 1.0, 3)
    assert low == high == 1.0
    with pytest.raises(ValueError, match="got 0 and 1000"):
        uncertainty.bootstrap_interval(lambda drawn: 0.0, 0)


def test_calibration_is_a_loop_over_the_bins():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.full(4, 0.5), size=300)
    labels = generator.integers(4, size=300)
    result = uncertainty.calibration(probabilities, labels, bins=7)
    error, images = 0.0, []
    for b in range(7):
        inside = [i for i in range(300) if b / 7 < probabilities[i].max() <= (b + 1) / 7]
        images.append(len(inside))
        if not inside:
            assert np.isnan(result.confidence[b])
            assert np.isnan(result.accuracy[b])
            continue
        confidence = np.mean([probabilities[i].max() for i in inside])
        accuracy = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
        assert result.confidence[b] == pytest.approx(confidence)
        assert result.accuracy[b] == pytest.approx(accuracy)
        error += len(inside) / 300 * abs(confidence - accuracy)
    assert result.images.tolist() == images
    assert result.error == pytest.approx(error)


def test_certainty_that_is_always_right_has_no_calibration_error():
    assert uncertainty.calibration(np.eye(3), [0, 1, 2]).error == 0
    assert uncertainty.calibration(np.eye(3), [1, 2, 0]).error == 1
    with pytest.raises(ValueError, match=r"labels of shape \(2,\)"):
        uncertainty.calibration(np.eye(3), [0, 1])
