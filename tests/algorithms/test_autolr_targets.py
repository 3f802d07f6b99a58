"""Sorting quality, targets and rates of AutoLR: hand-worked numbers, loops and published values."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autolr_oracle import loop_initial, loop_quality, loop_renewed
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from finetune_jax.algorithms import autolr

COUNTS = (1, 2, 3, 4, 7, 14)  # few, since every number of blocks is compiled anew
positive_variations = st.sampled_from(COUNTS).flatmap(
    # Whole numbers, so that they and their multiples are exact in float32; the scale is a matter of tests below.
    lambda count: st.lists(st.integers(1, 2**20), min_size=count, max_size=count)
)


quality = jax.jit(autolr.sorting_quality)
initial = jax.jit(autolr.initial_targets)
renewed = jax.jit(autolr.renewed_targets)


# ---------------------------------------------------------------- sorting quality


@pytest.mark.parametrize(
    ("variations", "expected"),
    [
        ([5.0], 1.0),
        ([1.0, 2.0, 3.0], 1.0),
        ([2.0, 2.0, 2.0], 1.0),
        ([0.0, 0.0, 1.0, 1.0], 1.0),
        ([2.0, 1.0], 0.0),  # 1 - 2/4 · 2
        ([4.0, 3.0, 2.0, 1.0], 0.0),  # 1 - 2/16 · (3 + 1 + 1 + 3)
        ([3.0, 2.0, 1.0], 1 / 9),  # 1 - 2/9 · 4: an odd number of blocks never gets to 0
        ([1.0, 2.0, 2.0, 1.0], 1 - 2 / 16 * 4),  # ranks 1, 3, 4, 2
        ([np.inf, 1.0], 0.0),
    ],
)
def test_quality_of_hand_worked_orders(variations, expected):
    np.testing.assert_allclose(autolr.sorting_quality(variations), expected, rtol=1e-6)


@given(st.sampled_from(COUNTS).flatmap(lambda n: st.lists(st.integers(0, 4), min_size=n, max_size=n)))
def test_quality_agrees_with_the_loop_and_is_1_only_without_a_descent(levels):
    v = np.asarray(levels, np.float32)
    actual = float(quality(v))
    assert actual == pytest.approx(loop_quality(levels), abs=1e-6)
    assert 0 <= actual <= 1
    assert (actual == 1) == all(a <= b for a, b in itertools.pairwise(levels))


@given(positive_variations, st.integers(-60, 60))
def test_quality_depends_on_the_order_alone(variations, power):
    v = np.asarray(variations, np.float32)
    order = np.unique(v, return_inverse=True)[1].astype(np.float32)
    assert quality(v) == quality(order) == quality(v * np.float32(2.0**power))


def test_a_nan_has_no_rank():
    assert np.isnan(autolr.sorting_quality([1.0, 2.0, np.nan]))


# ---------------------------------------------------------------- targets and rates


def test_initial_targets_are_equally_spaced_between_the_two_ends():
    # α · min = 2, β · max = 8.
    targets = autolr.initial_targets([20.0, 1.0, 5.0, 7.0])
    np.testing.assert_allclose(targets, [2.0, 4.0, 6.0, 8.0], rtol=1e-6)
    targets = autolr.initial_targets([20.0, 1.0, 5.0, 7.0], alpha=3.0, beta=0.6)
    np.testing.assert_allclose(targets, [3.0, 6.0, 9.0, 12.0], rtol=1e-6)


@pytest.mark.parametrize("largest", [4.0, 5.0])
def test_ends_that_do_not_ascend_become_the_smallest_and_the_largest_variation(largest):
    targets = autolr.initial_targets([largest, 1.0, 2.0])
    np.testing.assert_allclose(targets, [1.0, (1 + largest) / 2, largest], rtol=1e-6)


@given(positive_variations, st.sampled_from([(2.0, 0.4), (0.5, 2.0), (3.0, 0.6)]))
def test_initial_targets_agree_with_the_loop_and_never_descend(variations, ends):
    v = np.asarray(variations, np.float32)
    alpha, beta = ends
    actual = np.asarray(initial(v, alpha=alpha, beta=beta))
    np.testing.assert_allclose(actual, loop_initial(v.tolist(), alpha, beta)[0], rtol=1e-5)
    assert (np.diff(actual) >= 0).all()


@pytest.mark.parametrize(
    ("variations", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]),
        # d = 3/2, from the middle: 1; up: 2.5 ≥ 1 stays; down: 4 > 1 becomes 1 - 1.5, floored at 0.1.
        ([4.0, 1.0, 2.5], [0.1, 1.0, 2.5]),
        # d = 1, from the third: 3; up: 1 < 3 becomes 4; down: 4 > 3 becomes 2, then 2 stays.
        ([2.0, 4.0, 3.0, 1.0], [2.0, 2.0, 3.0, 4.0]),
        # d = 4, from the second, which keeps its 1; down: 5 becomes 1 - 4.
        ([5.0, 1.0], [0.1, 1.0]),
        ([3.0], [3.0]),
        ([2.0, 2.0], [2.0, 2.0]),
    ],
)
def test_renewed_targets_of_hand_worked_variations(variations, expected):
    np.testing.assert_allclose(autolr.renewed_targets(variations), expected, rtol=1e-6)


@given(positive_variations)
def test_renewed_targets_agree_with_the_loop_never_descend_and_stay_positive(variations):
    v = np.asarray(variations, np.float32)
    actual = np.asarray(renewed(v))
    np.testing.assert_allclose(actual, loop_renewed(v.tolist()), rtol=1e-4, atol=1e-6 * v.max())
    assert (np.diff(actual) >= 0).all()
    assert (actual >= np.float32(0.0999) * v.min()).all()
    assert actual[len(v) // 2] == v[len(v) // 2]


@given(positive_variations)
def test_renewed_targets_of_sorted_variations_are_these_variations(variations):
    v = np.sort(np.asarray(variations, np.float32))
    np.testing.assert_array_equal(renewed(v), v)


@given(positive_variations, st.integers(-60, 60))
def test_targets_scale_with_the_variations(variations, power):
    v = np.asarray(variations, np.float32)
    factor = np.float32(2.0**power)
    for targets in (initial, renewed):
        np.testing.assert_array_equal(targets(v * factor), targets(v) * factor)


def test_rates_are_scaled_by_target_over_variation_and_kept_where_nothing_moved():
    rates = autolr.renewed_learning_rates([0.1, 0.1, 0.2], [2.0, 3.0, 3.0], [4.0, 0.0, 1.0])
    np.testing.assert_allclose(rates, [0.05, 0.1, 0.6], rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda v: autolr.renewed_learning_rates(jnp.ones(2), jnp.ones(2), v).sum()))
    np.testing.assert_allclose(gradient(jnp.asarray([2.0, 0.0])), [-0.25, 0.0])


def test_small_variations_do_not_vanish_on_the_way_to_the_rates():
    # The product of rate and target does not fit into float32.
    rates = autolr.renewed_learning_rates([1e-6], [3e-35], [1e-35])
    np.testing.assert_allclose(rates, [3e-6], rtol=1e-5)


def test_published_rates_follow_from_the_published_gradients():
    """Table 1 of the supplement: the rates of 14 blocks after the first trial, from their gradients.

    The variation is ``1e-3 · ‖∇L_acc‖ / n`` (Eq. 8) with the number of weights of ResNet-50's bottlenecks. The
    printed rates follow with α in the first term of Eq. 11 (as printed it gives 0.15 for the second block), and
    with an ``n`` that leaves out the projected shortcuts. Only the first rate, printed 0.16, does not (0.185).
    """
    gradients = [66.04, 56.63, 53.57, 87.88, 101.17, 110.24, 87.22]
    gradients += [165.47, 213.56, 140.41, 136.67, 169.35, 285.15, 418.59]
    printed = [0.16, 0.29, 0.33, 0.76, 0.80, 0.78, 1.05, 2.06, 1.91, 3.05, 3.29, 2.78, 1.73, 4.33]
    channels = [(64, 64), *[(256, 64)] * 2, (256, 128), *[(512, 128)] * 3]
    channels += [(512, 256), *[(1024, 256)] * 5, (1024, 512)]
    sizes = [inner * (wide + 9 * inner + 4 * inner) for wide, inner in channels]
    v = 1e-3 * np.asarray(gradients) / np.asarray(sizes)
    rates = autolr.renewed_learning_rates(np.ones(14), autolr.initial_targets(v), v)
    np.testing.assert_allclose(rates[1:], printed[1:], rtol=0, atol=0.006)
    np.testing.assert_allclose(rates[0], 0.185, rtol=0, atol=0.001)


def test_targets_and_rates_keep_float64():
    rng = np.random.default_rng(3)
    v, rates = rng.uniform(1, 9, size=7), rng.uniform(size=7)
    with jax.enable_x64(True):
        first, later = initial(v), renewed(v)
        new = jax.jit(autolr.renewed_learning_rates)(rates, first, v)
        assert {x.dtype.name for x in (first, later, new, quality(v))} == {"float64"}
        np.testing.assert_allclose(first, loop_initial(v.tolist())[0], rtol=1e-14)
        np.testing.assert_allclose(later, loop_renewed(v.tolist()), rtol=1e-14)
        np.testing.assert_allclose(new, rates * np.asarray(first) / v, rtol=1e-14)
        assert initial(v.astype(np.float32)).dtype == jnp.float32


@pytest.mark.parametrize(
    "function",
    [autolr.sorting_quality, autolr.initial_targets, autolr.renewed_targets],
    ids=lambda f: f.__name__,
)
def test_rows_of_a_map_are_computed_alone(function):
    v = np.random.default_rng(4).uniform(1, 9, size=(5, 7)).astype(np.float32)
    alone = jax.jit(function)
    np.testing.assert_allclose(jax.jit(jax.vmap(function))(v), [alone(row) for row in v], rtol=1e-6)


def test_a_map_over_alpha_and_beta_gives_the_grid_of_figure_3():
    v = np.asarray([20.0, 1.0, 5.0, 7.0], np.float32)
    alphas, betas = np.asarray([1.0, 2.0], np.float32), np.asarray([0.4, 0.6, 0.8], np.float32)

    def targets(alpha, beta):
        return autolr.initial_targets(v, alpha=alpha, beta=beta)

    grid = jax.jit(jax.vmap(jax.vmap(targets, (None, 0)), (0, None)))(alphas, betas)
    expected = [[loop_initial(v.tolist(), a, b)[0] for b in betas.tolist()] for a in alphas.tolist()]
    np.testing.assert_allclose(grid, expected, rtol=1e-6)


def test_wrong_shapes_are_named():
    for function in (autolr.sorting_quality, autolr.initial_targets, autolr.renewed_targets):
        with pytest.raises(ValueError, match=r"variations must be .* got shape \(2, 3\)"):
            function(np.ones((2, 3)))
        with pytest.raises(ValueError, match=r"got shape \(0,\)"):
            function([])
    with pytest.raises(ValueError, match=r"\(3,\), \(2,\) and \(3,\)"):
        autolr.renewed_learning_rates(np.ones(3), np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="alpha must be positive"):
        autolr.initial_targets([1.0, 2.0], alpha=0.0)


def test_geometric_targets_have_one_ratio_between_neighbours_and_the_same_ends():
    variations = np.array([1.0, 3.0, 900.0, 20.0, 4.0])
    found = np.asarray(autolr.initial_targets(variations, spacing="geometric"))
    np.testing.assert_allclose(found, np.geomspace(2.0, 360.0, 5), rtol=1e-5)


def test_geometric_targets_from_a_block_that_did_not_move_are_linear():
    found = autolr.initial_targets([0.0, 10.0, 5.0], spacing="geometric")
    assert found.tolist() == [0.0, 2.0, 4.0]


def test_a_spacing_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="spacing must be one of linear, geometric, got 'cubic'"):
        autolr.initial_targets([1.0, 2.0], spacing="cubic")


def test_a_ratio_puts_the_targets_around_the_geometric_mean_of_the_variations():
    variations = np.array([3.0, 0.5, 12.0, 2.0])
    found = np.asarray(autolr.initial_targets(variations, ratio=16.0, spacing="geometric"))
    assert stats.gmean(found) == pytest.approx(stats.gmean(variations), rel=1e-5)
    np.testing.assert_allclose(found[1:] / found[:-1], 16 ** (1 / 3), rtol=1e-5)
    ends = np.asarray(autolr.initial_targets(variations, ratio=16.0))[[0, -1]]
    np.testing.assert_allclose(ends, found[[0, -1]], rtol=1e-5)


def test_a_ratio_is_left_aside_where_a_block_did_not_move():
    assert autolr.initial_targets([0.0, 4.0], ratio=16.0).tolist() == [0.0, 4.0]


@pytest.mark.parametrize("ratio", [1.0, 0.5, -2.0, float("inf")])
def test_a_ratio_that_does_not_ascend_is_named(ratio):
    with pytest.raises(ValueError, match="ratio must be above 1, or 0 for none"):
        autolr.AutoLRConfig(ratio=ratio)
