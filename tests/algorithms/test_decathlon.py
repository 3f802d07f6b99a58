"""The score of the Visual Decathlon, and its data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from finetune_jax.algorithms import decathlon

BASELINE = np.array([decathlon.BASELINE_ERRORS[name] for name in decathlon.DATASETS])
ERRORS = st_numpy.arrays(np.float64, 10, elements=st.floats(0, 100))


def score_by_hand(errors, baseline_errors):
    """The challenge's formula, one data set at a time in Python."""
    total = 0.0
    for error, baseline_error in zip(errors, baseline_errors, strict=True):
        worst = 2 * baseline_error
        total += 1000 * worst**-2 * max(0.0, worst - error) ** 2
    return total


@given(ERRORS)
def test_score_is_the_sum_written_out(errors):
    np.testing.assert_allclose(
        decathlon.score(errors, BASELINE), score_by_hand(errors, BASELINE), rtol=1e-4, atol=1e-3
    )


def test_landmarks():
    assert decathlon.score(np.zeros(10), BASELINE) == 10_000
    np.testing.assert_allclose(decathlon.score(BASELINE, BASELINE), 2500, rtol=1e-6)
    assert decathlon.score(2 * BASELINE, BASELINE) == 0
    assert decathlon.score(3 * BASELINE, BASELINE) == 0  # worse than Emax earns nothing and costs nothing


def test_percent_and_shares_score_alike():
    errors = 0.8 * BASELINE
    np.testing.assert_allclose(
        decathlon.score(errors, BASELINE), decathlon.score(errors / 100, BASELINE / 100), rtol=1e-6
    )


# Their printed scores differ from what their printed accuracies give by more than rounding.
INCONSISTENT = {"Feature Extractor", "Fine-tuning", "BN Adapt.", "SpotTune (Global-k)"}


@pytest.mark.parametrize("method", decathlon.TABLE_3)
def test_published_accuracies_give_the_published_score(method):
    row = decathlon.TABLE_3[method]
    errors = 100 - np.array(row.accuracies)
    # Every printed number is rounded to 0.01; the score falls with the errors and grows with the baseline's.
    least = decathlon.score(errors + 0.005, BASELINE - 0.005) - 0.5
    most = decathlon.score(np.maximum(errors - 0.005, 0), BASELINE + 0.005) + 0.5
    assert (least <= row.score <= most) == (method not in INCONSISTENT)
    assert most - least < 15


def test_spottune_scores_what_the_paper_reports():
    errors = 100 - np.array(decathlon.TABLE_3["SpotTune"].accuracies)
    assert abs(decathlon.score(errors, BASELINE) - 3612) < 1


def test_dicts_score_as_arrays_in_any_order():
    rng = np.random.default_rng(0)
    errors = dict(zip(decathlon.DATASETS, rng.uniform(0, 60, 10), strict=True))
    expected = decathlon.score(np.array(list(errors.values())), BASELINE)
    assert expected > 0
    shuffled = {name: errors[name] for name in rng.permutation(decathlon.DATASETS)}
    np.testing.assert_allclose(decathlon.score(shuffled, decathlon.BASELINE_ERRORS), expected, rtol=1e-6)


def test_some_of_the_data_sets_earn_their_part():
    some = ("dtd", "svhn")
    errors = {"dtd": 40.0, "svhn": 3.0}
    baseline = {name: decathlon.BASELINE_ERRORS[name] for name in some}
    expected = score_by_hand(errors.values(), [baseline[name] for name in errors])
    np.testing.assert_allclose(decathlon.score(errors, baseline), expected, rtol=1e-6)


def test_several_methods_are_scored_at_once():
    errors = np.array([100 - np.array(row.accuracies) for row in decathlon.TABLE_3.values()])
    together = decathlon.score(errors, BASELINE)
    assert together.shape == (len(decathlon.TABLE_3),)
    mapped = jax.jit(jax.vmap(decathlon.score, (0, None)))(errors, BASELINE)
    np.testing.assert_allclose(together, [score_by_hand(row, BASELINE) for row in errors], rtol=1e-5)
    np.testing.assert_allclose(mapped, together, rtol=1e-5)


def test_the_gradient_is_the_derivative_of_the_sum_and_zero_beyond_emax():
    errors = np.array([10.0, 90.0])
    baseline = np.array([20.0, 40.0])
    gradient = jax.grad(decathlon.score)(jnp.asarray(errors), jnp.asarray(baseline))
    np.testing.assert_allclose(gradient, [-2 * 1000 / 40**2 * (40 - 10), 0], rtol=1e-6)


def test_double_precision_is_kept():
    with jax.enable_x64(True):
        score = decathlon.score(BASELINE / 3, BASELINE)
    assert score.dtype == np.float64
    np.testing.assert_allclose(score, 10 * 1000 * (5 / 6) ** 2, rtol=1e-14)


def test_errors_and_baseline_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"'dtd'.*'svhn'"):
        decathlon.score({"dtd": 1.0}, {"svhn": 1.0})
    with pytest.raises(ValueError, match="both"):
        decathlon.score({"dtd": 1.0}, np.ones(1))
    with pytest.raises(ValueError, match=r"\(9,\).*\(10,\)"):
        decathlon.score(np.ones(9), BASELINE)


def test_every_data_set_has_its_constants():
    assert len(decathlon.DATASETS) == 10
    assert set(decathlon.BASELINE_ERRORS) == set(decathlon.WEIGHT_DECAYS) == set(decathlon.DATASETS)
    assert all(len(row.accuracies) == 10 for row in decathlon.TABLE_3.values())


def test_data_sets_are_called_as_tensorflow_datasets_calls_them():
    import tensorflow_datasets as tfds

    builder = tfds.builder_cls("visual_domain_decathlon")
    assert set(decathlon.DATASETS) == {config.name for config in builder.BUILDER_CONFIGS}
