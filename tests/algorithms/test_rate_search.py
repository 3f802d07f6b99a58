"""Searches of a learning rate over losses that are formulas."""

import math

import numpy as np
import pytest

from finetune_jax.algorithms import block_rates, rate_search


def bowl(best, steepness=1.0):
    """A loss that is a parabola over the logarithm of the rate, and how often it was asked."""
    asked = []

    def loss(rate):
        asked.append(rate)
        return 1 + steepness * (math.log10(rate) - math.log10(best)) ** 2

    return loss, asked


def test_rates_of_a_range_test_rise_by_one_factor():
    rates = rate_search.range_of_rates(1e-5, 10.0, 100)
    assert (rates[0], rates[-1], len(rates)) == (pytest.approx(1e-5), pytest.approx(10.0), 100)
    np.testing.assert_allclose(np.diff(np.log(rates)), math.log(1e6) / 99, rtol=1e-6)


@pytest.mark.parametrize(("lowest", "highest", "steps"), [(0.1, 0.1, 9), (0.0, 1.0, 9), (0.1, 1.0, 1)])
def test_rates_that_do_not_rise_are_refused(lowest, highest, steps):
    with pytest.raises(ValueError, match="rates must rise in at least two steps"):
        rate_search.range_of_rates(lowest, highest, steps)


def test_smoothed_losses_are_weighted_means_of_those_so_far():
    losses = np.random.default_rng(0).uniform(1, 3, 20)
    weights = 0.9 ** np.arange(20)[::-1]
    expected = [np.average(losses[: n + 1], weights=weights[19 - n :]) for n in range(20)]
    np.testing.assert_allclose(rate_search.smoothed(losses), expected, rtol=1e-9)


def test_the_found_rate_is_a_share_of_the_one_with_the_lowest_smoothed_loss():
    rates = rate_search.range_of_rates(1e-5, 10.0, 100)
    losses = [1 + (math.log10(rate) + 1) ** 2 for rate in rates]
    found = rate_search.found_rate(rates, losses, decay=0.5, divisor=3.0)
    lowest = rates[int(np.argmin(rate_search.smoothed(losses, 0.5)))]
    assert found == pytest.approx(lowest / 3, rel=0.01)
    assert 0.033 <= found < 0.066  # smoothing looks back, so a little behind 0.1


def test_steps_that_diverged_are_not_taken_for_low_losses():
    rates = rate_search.range_of_rates(1e-3, 1.0, 4)
    assert rate_search.found_rate(rates, [2.0, 1.0, math.nan], decay=0.0) == pytest.approx(1e-3)
    with pytest.raises(ValueError, match="not finite at any rate"):
        rate_search.found_rate(rates, [math.inf], decay=0.0)


@pytest.mark.parametrize("best", [1e-4, 0.003, 0.03, 0.5])
def test_a_climb_encloses_the_best_rate_and_asks_for_none_twice(best):
    loss, asked = bowl(best)
    losses = rate_search.climb(loss, 0.01, factor=math.sqrt(10), most=20)
    assert len(asked) == len(set(asked)) == len(losses)
    assert list(losses) == sorted(losses)
    lowest = min(losses, key=losses.__getitem__)
    assert abs(math.log10(lowest / best)) <= 0.25 + 1e-9  # half of half a decade
    assert min(losses) < lowest < max(losses)
    assert len(asked) <= 4 + 2 * abs(math.log10(best / 0.01))


def test_a_climb_ends_after_the_rates_it_may_ask_for():
    loss, asked = bowl(1e-9)
    rate_search.climb(loss, 0.01, factor=10.0, most=4)
    assert len(asked) == 4


def test_a_climb_from_a_rate_that_diverges_goes_down_until_one_does_not():
    def loss(rate):
        return math.nan if rate > 1e-4 else 1 + (math.log10(rate) + 5) ** 2

    losses = rate_search.climb(loss, 0.1, factor=10.0, most=9)
    assert min(losses, key=losses.__getitem__) == pytest.approx(1e-5)
    assert losses[0.1] == math.inf
    everywhere = rate_search.climb(lambda rate: math.inf, 0.1, factor=10.0, most=3)
    assert list(everywhere.values()) == [math.inf] * 3


def test_of_rates_that_are_nearly_as_good_the_smallest_is_taken():
    losses = {1.0: 0.900, 0.3: 0.9005, 0.1: 0.909, 0.03: 0.95, 0.01: math.inf}
    chosen = [rate_search.smallest_within(losses, share) for share in (0.0, 0.001, 0.01, 0.1)]
    assert chosen == [1.0, 0.3, 0.1, 0.03]
    with pytest.raises(ValueError, match="training diverged at every rate"):
        rate_search.smallest_within({0.1: math.inf}, 0.01)


def test_relative_gradients_are_movements_per_rate_and_the_largest_counts_one():
    factors = block_rates.relative_gradients([0.2, 0.1, 0.4], [0.1, 0.01, 0.4])
    np.testing.assert_allclose(factors, [0.2, 1.0, 0.1])


@pytest.mark.parametrize("movements", [[0.0, 0.0], [math.inf, 1.0], [math.nan, 1.0]])
def test_where_gradients_say_nothing_all_blocks_have_the_same_factor(movements):
    assert block_rates.relative_gradients(movements, [0.1, 0.2]).tolist() == [1.0, 1.0]
    assert block_rates.relative_gradients([1.0, 1.0], [0.0, 0.5]).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="one movement and one rate per block"):
        block_rates.relative_gradients([1.0], [1.0, 2.0])


def test_the_signal_to_noise_ratio_is_the_squared_mean_over_the_variance_of_a_whole_block():
    rng = np.random.default_rng(0)
    gradients = rng.normal(0.3, 1.0, (5, 7)), rng.normal(0.0, 1.0, (5, 4))  # [batches, weights]
    found = block_rates.signal_to_noise(
        [np.sum(of.sum(0) ** 2) for of in gradients], [np.sum(of**2) for of in gradients], count=5
    )
    expected = [np.sum(of.mean(0) ** 2) / np.sum(of.var(0, ddof=1)) for of in gradients]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_gradients_without_variance_or_of_one_batch_have_a_ratio_too():
    # Twice the same gradient of norm 2, none at all.
    assert block_rates.signal_to_noise([16.0, 0.0], [8.0, 0.0], count=2).tolist() == [math.inf, 0.0]
    assert block_rates.signal_to_noise([4.0], [4.0], count=1).tolist() == [0.0]


@pytest.mark.parametrize(
    ("ratios", "factors"),
    [
        ([0.2, 0.05, 0.1], [1, 0, 1]),
        ([math.inf, 3.0], [1, 0]),
        ([0.0, 0.0], [1, 1]),
        ([math.nan, 1.0], [1, 1]),
    ],
)
def test_blocks_with_less_than_a_share_of_the_clearest_gradient_wait(ratios, factors):
    assert block_rates.clear_gradients(ratios, 0.5).tolist() == factors
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\], got 2"):
        block_rates.clear_gradients(ratios, 2)
