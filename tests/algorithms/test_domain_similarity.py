"""Class means, exact Earth Mover's Distance, similarity."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_jax.algorithms import domain_similarity
from finetune_jax.algorithms.domain_similarity import class_means, earth_movers_distance


def labelled(seed=0, images=40, features=5, classes=6, dtype=np.float32):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes - 1, images)  # the last class stays empty
    return rng.normal(size=(images, features)).astype(dtype), labels


class TestClassMeans:
    def test_means_and_shares_agree_with_a_loop(self):
        features, labels = labelled()
        means, weights = jax.jit(class_means, static_argnums=2)(features, labels, 6)
        assert means.shape == (6, 5)
        assert means.dtype == weights.dtype == np.float32
        for label in range(5):
            rows = features[labels == label]
            np.testing.assert_allclose(means[label], rows.mean(0), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(weights[label], len(rows) / 40, rtol=1e-6)

    def test_a_class_without_images_has_mean_and_weight_zero(self):
        means, weights = class_means(*labelled(), 6)
        np.testing.assert_array_equal(means[5], 0)
        assert weights[5] == 0
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)

    @pytest.mark.parametrize("outside", [-1, 6, 100])
    def test_labels_outside_the_classes_are_padding(self, outside):
        features, labels = labelled()
        padded = np.concatenate([features, np.full((7, 5), 1e6, np.float32)])
        padded_labels = np.concatenate([labels, np.full(7, outside)])
        for ours, expected in zip(
            class_means(padded, padded_labels, 6), class_means(features, labels, 6), strict=True
        ):
            np.testing.assert_array_equal(ours, expected)

    def test_no_image_at_all_is_all_zeros(self):
        means, weights = class_means(np.ones((3, 2), np.float32), np.full(3, -1), 4)
        np.testing.assert_array_equal(means, np.zeros((4, 2)))
        np.testing.assert_array_equal(weights, np.zeros(4))

    def test_batches_may_be_added(self):
        features, labels = labelled(dtype=np.float64)
        with jax.enable_x64(True):
            batches = [
                domain_similarity.class_sums(features[i : i + 16], labels[i : i + 16], 6) for i in (0, 16, 32)
            ]
            added = jax.tree.map(lambda *parts: sum(parts), *batches)
            together = class_means(features, labels, 6)
            for ours, expected in zip(domain_similarity.means_and_weights(*added), together, strict=True):
                np.testing.assert_allclose(ours, expected, rtol=1e-12)

    def test_double_precision_is_kept_and_half_precision_raised(self):
        features, labels = labelled(dtype=np.float64)
        with jax.enable_x64(True):
            means, weights = class_means(features, labels, 6)
            assert means.dtype == weights.dtype == np.float64
            np.testing.assert_allclose(means[0], features[labels == 0].mean(0), rtol=1e-14)
        ones = jnp.ones((4000, 1), jnp.bfloat16)  # a bfloat16 sum of ones stops at 256
        assert class_means(ones, jnp.zeros(4000, jnp.int32), 1)[0].tolist() == [[1.0]]

    def test_the_gradient_spreads_evenly_over_the_images_of_a_class(self):
        features, labels = labelled()
        gradient = jax.grad(lambda features: class_means(features, labels, 6)[0].sum())(jnp.asarray(features))
        for label, row in zip(labels, gradient, strict=True):
            np.testing.assert_allclose(row, 1 / (labels == label).sum(), rtol=1e-6)

    def test_shapes_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match=r"\(4, 2\) and \(3,\)"):
            class_means(np.ones((4, 2)), np.zeros(3, int), 2)
        with pytest.raises(ValueError, match="0"):
            class_means(np.ones((4, 2)), np.zeros(4, int), 0)


def linear_program(source, source_weights, target, target_weights):
    """Least Σ flow · distance with given row and column sums, by a general solver."""
    distances = np.array([[np.sqrt(((s - t) ** 2).sum()) for t in target] for s in source])
    rows, columns = distances.shape
    constraints, sums = [], []
    for i in range(rows):
        constraint = np.zeros((rows, columns))
        constraint[i] = 1
        constraints.append(constraint.ravel())
        sums.append(source_weights[i])
    for j in range(columns):
        constraint = np.zeros((rows, columns))
        constraint[:, j] = 1
        constraints.append(constraint.ravel())
        sums.append(target_weights[j])
    solved = scipy.optimize.linprog(distances.ravel(), A_eq=constraints, b_eq=sums, method="highs")
    assert solved.success
    return solved.fun


def weighted_set(rng, points, features=3):
    weights = rng.uniform(0.05, 1, points)
    return rng.normal(size=(points, features)) * 3, weights / weights.sum()


SETS = st.builds(
    lambda seed, points: weighted_set(np.random.default_rng(seed), points),
    st.integers(0, 999),
    st.integers(1, 6),
)


class TestEarthMoversDistance:
    @pytest.mark.parametrize(("sources", "targets"), [(1, 1), (1, 7), (5, 4), (12, 9), (20, 15)])
    def test_it_agrees_with_a_linear_program(self, sources, targets):
        rng = np.random.default_rng(sources)
        problem = (*weighted_set(rng, sources), *weighted_set(rng, targets))
        np.testing.assert_allclose(earth_movers_distance(*problem), linear_program(*problem), rtol=1e-9)

    def test_on_a_line_it_is_the_area_between_the_distributions(self):
        rng = np.random.default_rng(3)
        source, target = rng.normal(size=(30, 1)), rng.normal(size=(20, 1)) + 1
        source_weights, target_weights = rng.uniform(size=30), rng.uniform(size=20)
        expected = scipy.stats.wasserstein_distance(
            source[:, 0], target[:, 0], source_weights, target_weights
        )
        np.testing.assert_allclose(
            earth_movers_distance(source, source_weights, target, target_weights), expected, rtol=1e-9
        )

    def test_with_one_class_it_is_the_mean_distance_to_it(self):
        target, weights = weighted_set(np.random.default_rng(0), 8)
        expected = sum(weight * np.linalg.norm(point) for point, weight in zip(target, weights, strict=True))
        np.testing.assert_allclose(earth_movers_distance(np.zeros((1, 3)), [1.0], target, weights), expected)

    def test_a_hand_worked_example(self):
        # Half the mass stays, a quarter moves by 5 (3-4-5 triangle), a quarter by 2.
        source, target = [[0.0, 0.0], [10.0, 0.0]], [[0.0, 0.0], [3.0, 4.0], [10.0, 2.0]]
        distance = earth_movers_distance(source, [0.75, 0.25], target, [0.5, 0.25, 0.25])
        np.testing.assert_allclose(distance, 0.25 * 5 + 0.25 * 2, rtol=1e-12)

    @settings(max_examples=20)
    @given(SETS)
    def test_equal_sets_in_any_order_are_at_distance_zero(self, points):
        means, weights = points
        order = np.random.default_rng(0).permutation(len(means))
        assert earth_movers_distance(means, weights, means[order], weights[order]) < 1e-12

    @settings(max_examples=20)
    @given(SETS, SETS, SETS)
    def test_it_is_symmetric_and_no_detour_is_shorter(self, first, second, third):
        direct = earth_movers_distance(*first, *third)
        np.testing.assert_allclose(direct, earth_movers_distance(*third, *first), rtol=1e-9)
        detour = earth_movers_distance(*first, *second) + earth_movers_distance(*second, *third)
        assert direct <= detour + 1e-9

    @settings(max_examples=20)
    @given(SETS, SETS)
    def test_it_is_at_least_the_distance_of_the_centres_and_moves_with_a_shift(self, first, second):
        centres = np.linalg.norm(first[1] @ first[0] - second[1] @ second[0])
        assert earth_movers_distance(*first, *second) >= centres - 1e-9
        shift = np.array([1.0, -2.0, 2.0])
        np.testing.assert_allclose(earth_movers_distance(*first, first[0] + shift, first[1]), 3, rtol=1e-9)

    def test_classes_of_weight_zero_do_not_matter(self):
        rng = np.random.default_rng(5)
        source, target = weighted_set(rng, 6), weighted_set(rng, 4)
        with_empty = np.insert(source[0], 2, np.nan, axis=0), np.insert(source[1], 2, 0.0)
        assert earth_movers_distance(*with_empty, *target) == earth_movers_distance(*source, *target)

    def test_counts_serve_as_weights(self):
        rng = np.random.default_rng(6)
        source, target = rng.normal(size=(3, 2)), rng.normal(size=(2, 2))
        np.testing.assert_allclose(
            earth_movers_distance(source, [10, 20, 70], target, [1, 3]),
            earth_movers_distance(source, [0.1, 0.2, 0.7], target, [0.25, 0.75]),
            rtol=1e-12,
        )

    def test_it_takes_what_class_means_gives(self):
        # float32 weights of 300 classes sum to 1 only roughly.
        rng = np.random.default_rng(7)
        source = class_means(rng.normal(size=(3000, 4)).astype(np.float32), rng.integers(0, 300, 3000), 300)
        target = class_means(rng.normal(size=(500, 4)).astype(np.float32) + 2, rng.integers(0, 30, 500), 31)
        exact = earth_movers_distance(*(np.asarray(part, np.float64) for part in (*source, *target)))
        np.testing.assert_allclose(earth_movers_distance(*source, *target), exact, rtol=1e-12)
        assert exact > 3.9  # centres 4 apart

    def test_problems_without_an_answer_are_refused(self):
        means, weights = np.zeros((2, 3)), np.ones(2)
        with pytest.raises(ValueError, match=r"source.*\[2, 3\] and \[3\]"):
            earth_movers_distance(means, np.ones(3), means, weights)
        with pytest.raises(ValueError, match="3 features, target means 2"):
            earth_movers_distance(means, weights, np.zeros((2, 2)), weights)
        for bad in ([0, 0], [1, -1], [1, np.nan]):
            with pytest.raises(ValueError, match="target weights"):
                earth_movers_distance(means, weights, means, bad)
        with pytest.raises(ValueError, match="source means must be finite"):
            earth_movers_distance(means + np.inf, weights, means, weights)

    def test_an_unfinished_search_is_an_error(self, monkeypatch):
        monkeypatch.setattr(domain_similarity, "_SIMPLEX_ITERATIONS", 1)
        rng = np.random.default_rng(0)
        with pytest.warns(UserWarning, match="numItermax"), pytest.raises(RuntimeError, match="optimum"):
            earth_movers_distance(*weighted_set(rng, 40), *weighted_set(rng, 40))

    @staticmethod
    def switches():
        """Of POT alone: what it imports first sets variables of OpenMP for good."""
        return {name: value for name, value in os.environ.items() if name.startswith("POT_")}

    def test_the_environment_is_left_as_it_was(self, monkeypatch):
        monkeypatch.setenv("POT_BACKEND_DISABLE_JAX", "mine")
        for name in set(self.switches()) - {"POT_BACKEND_DISABLE_JAX"}:
            monkeypatch.delenv(name)
        before = self.switches()
        earth_movers_distance([[0.0]], [1.0], [[1.0]], [1.0])
        assert self.switches() == before == {"POT_BACKEND_DISABLE_JAX": "mine"}


def test_similarity_falls_from_one_with_the_distance():
    distances = jnp.asarray([0.0, 1.0, 14.85, 48.0])
    np.testing.assert_allclose(
        jax.jit(domain_similarity.similarity)(distances), np.exp(-0.01 * distances), rtol=1e-6
    )
    assert domain_similarity.similarity(0.0) == 1
    np.testing.assert_allclose(domain_similarity.similarity(2.0, gamma=0.5), np.exp(-1), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(domain_similarity.similarity)(10.0), -0.01 * np.exp(-0.1), rtol=1e-6)
    with jax.enable_x64(True):
        assert domain_similarity.similarity(np.float64(3)).dtype == np.float64
