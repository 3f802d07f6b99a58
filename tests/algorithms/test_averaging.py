"""Averages of weights against loops in double precision and soups worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_jax.algorithms import averaging


def trees(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "stem": {"kernel": rng.normal(size=(2, 3)).astype(np.float32)},
            "head": rng.normal(size=4).astype(np.float32),
        }
        for _ in range(count)
    ]


def assert_close(ours, theirs, rtol=1e-5):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_a_moving_average_weighs_every_tree_by_the_decays_after_it(decay):
    history = trees(12)
    average = history[0]
    update = jax.jit(lambda a, c, step: averaging.ema_update(a, c, averaging.ema_decay(decay, step)))
    for step, tree in enumerate(history[1:]):
        average = update(average, tree, step)
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(11)]
    weights = [np.prod(decays)] + [(1 - d) * np.prod(decays[i + 1 :]) for i, d in enumerate(decays)]
    assert sum(weights) == pytest.approx(1)
    expected = jax.tree.map(
        lambda *leaves: sum(w * leaf.astype(np.float64) for w, leaf in zip(weights, leaves, strict=True)),
        *history,
    )
    assert_close(average, expected)


def test_the_decay_rises_from_a_tenth_and_never_above_its_value():
    np.testing.assert_allclose(
        [averaging.ema_decay(0.9, s) for s in (0, 1, 8, 80, 1000)], [0.1, 2 / 11, 0.5, 0.9, 0.9]
    )


def test_a_mean_taken_one_by_one_is_the_mean_of_all():
    history = trees(7)
    average = jax.tree.map(lambda leaf: np.full_like(leaf, np.inf), history[0])
    update = jax.jit(averaging.mean_update)
    for count, tree in enumerate(history):
        average = update(average, tree, count)
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *history)
    assert_close(average, expected)
    assert_close(averaging.mean(history), expected)


def test_an_interpolation_begins_and_ends_at_its_networks_exactly():
    start, end = trees(2)
    for alpha, exact in ((0.0, start), (1.0, end)):
        for a, b in zip(
            jax.tree.leaves(averaging.interpolate(start, end, alpha)), jax.tree.leaves(exact), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    between = jax.jit(averaging.interpolate)(start, end, jnp.float32(0.3))
    assert_close(between, jax.tree.map(lambda a, b: a + 0.3 * (b.astype(np.float64) - a), start, end))


def scalars(*values):
    return [{"w": np.float64(value)} for value in values]


def test_a_greedy_soup_takes_in_what_does_not_make_it_worse():
    """The score is highest at 1. Ranked: 0.9, 1.3 (mean 1.1: not worse), 0.4 (mean 0.867: worse), 2.5 (worse)."""

    def score(tree):
        return -abs(round(float(tree["w"]) - 1, 9))

    soup = averaging.greedy_soup(scalars(2.5, 1.3, 0.4, 0.9), score)
    assert soup.chosen == (3, 1)
    assert soup.tree["w"] == pytest.approx(1.1)
    assert soup.score == pytest.approx(-0.1)


def test_a_greedy_soup_is_its_best_candidate_where_no_other_helps():
    soup = averaging.greedy_soup(scalars(5, 1, 9), lambda tree: -abs(float(tree["w"]) - 1))
    assert soup == ({"w": 1.0}, (1,), 0.0)


def test_of_equal_candidates_the_first_ones_come_first():
    soup = averaging.greedy_soup(scalars(1, 1, 1), lambda tree: 0.5)
    assert soup.chosen == (0, 1, 2)


@pytest.mark.parametrize(
    "function", [averaging.mean, lambda trees: averaging.greedy_soup(trees, lambda tree: 0.0)]
)
def test_nothing_has_no_average(function):
    with pytest.raises(ValueError, match="there is no"):
        function([])
