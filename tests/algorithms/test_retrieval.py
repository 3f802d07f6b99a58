"""Retrieval against a NumPy loop over every query.

Exactness is tested on features whose cosine similarities are free of rounding: rows with four entries of ±1
have norm 2, so that similarities are multiples of 1/4, equal for many pairs, and every rank hangs on the rule
for ties.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_jax.algorithms import retrieval

# Tiles are 512 queries and 8192 gallery rows: more than one of each, and a remainder.
MANY_QUERIES, MANY_GALLERY = 700, 8300


def tied_features(rng, count, width=8):
    features = np.zeros((count, width), np.float32)
    for row in features:
        row[rng.choice(width, 4, replace=False)] = rng.choice([-1, 1], 4)
    return features


def loop_nearest(queries, k, gallery=None):
    """Every query against everything in float64, sorted by (similarity falling, index rising)."""

    def unit(row):
        length = np.sqrt(np.sum(row.astype(np.float64) ** 2))
        return row / length if length else np.zeros_like(row, np.float64)

    targets = np.array([unit(row) for row in (queries if gallery is None else gallery)])
    indices, similarities = [], []
    for number, query in enumerate(queries):
        similarity = targets @ unit(query)
        order = np.lexsort((np.arange(len(targets)), -similarity))
        if gallery is None:
            order = order[order != number]
        indices.append(order[:k])
        similarities.append(similarity[order[:k]])
    return np.array(indices), np.array(similarities)


def loop_recall(queries, labels, ks, gallery=None, gallery_labels=None):
    targets = labels if gallery is None else gallery_labels
    ranked, _ = loop_nearest(queries, len(targets), gallery)
    return {
        k: np.mean([label in targets[row[:k]] for row, label in zip(ranked, labels, strict=True)]) for k in ks
    }


def loop_map_at_r(queries, labels, gallery=None, gallery_labels=None):
    targets = labels if gallery is None else gallery_labels
    ranked, _ = loop_nearest(queries, len(targets), gallery)
    scores = []
    for row, label in zip(ranked, labels, strict=True):
        relevant = sum(targets[i] == label for i in row)
        score, found = 0.0, 0
        for position, index in enumerate(row[:relevant], start=1):
            if targets[index] == label:
                found += 1
                score += found / position
        scores.append(score / relevant if relevant else 0.0)
    return np.mean(scores)


def test_recall_among_the_queries_agrees_with_a_loop():
    rng = np.random.default_rng(0)
    queries, labels = rng.normal(size=(90, 6)), rng.integers(12, size=90)
    actual = retrieval.recall_at_k(queries, labels)
    assert list(actual) == [1, 2, 4, 8]
    assert actual == pytest.approx(loop_recall(queries, labels, (1, 2, 4, 8)))
    assert 0 < actual[1] < actual[8] < 1


def test_recall_in_a_gallery_agrees_with_a_loop():
    rng = np.random.default_rng(1)
    queries, gallery = rng.normal(size=(40, 6)), rng.normal(size=(70, 6))
    labels, gallery_labels = rng.integers(10, size=40), rng.integers(10, size=70)
    actual = retrieval.recall_at_k(queries, labels, (8, 3), gallery=gallery, gallery_labels=gallery_labels)
    assert list(actual) == [8, 3]
    assert actual == pytest.approx(loop_recall(queries, labels, (8, 3), gallery, gallery_labels))


def test_map_at_r_agrees_with_a_loop():
    rng = np.random.default_rng(2)
    queries, gallery = rng.normal(size=(60, 4)), rng.normal(size=(50, 4))
    # Classes of unequal size, some of one image, some of the queries' absent from the gallery.
    labels, gallery_labels = rng.geometric(0.2, size=60), rng.geometric(0.3, size=50)
    assert not np.isin(labels, gallery_labels).all()
    assert retrieval.map_at_r(queries, labels) == pytest.approx(loop_map_at_r(queries, labels), rel=1e-12)
    actual = retrieval.map_at_r(queries, labels, gallery=gallery, gallery_labels=gallery_labels)
    assert actual == pytest.approx(loop_map_at_r(queries, labels, gallery, gallery_labels), rel=1e-12)


def test_map_at_r_is_the_mean_of_what_each_query_scores():
    rng = np.random.default_rng(5)
    queries, labels = rng.normal(size=(30, 4)), rng.integers(6, size=30)
    gallery, gallery_labels = rng.normal(size=(40, 4)), rng.integers(6, size=40)
    values = retrieval.average_precisions(queries, labels, gallery=gallery, gallery_labels=gallery_labels)
    alone = [loop_map_at_r(queries[i : i + 1], labels[i : i + 1], gallery, gallery_labels) for i in range(30)]
    np.testing.assert_allclose(values, alone, rtol=1e-12)
    chunks = retrieval.average_precisions(queries, labels, chunk_size=1)
    assert chunks.mean() == pytest.approx(retrieval.map_at_r(queries, labels), rel=1e-12)


def test_map_at_r_of_a_hand_worked_ranking():
    # One query; by falling similarity the gallery reads right, wrong, right, right: R = 3, so three count.
    gallery = np.array([[1, 0.1], [1, 0.2], [1, 0.3], [1, 0.4]])
    actual = retrieval.map_at_r([[1, 0]], ["a"], gallery=gallery, gallery_labels=["a", "b", "a", "a"])
    assert actual == pytest.approx((1 / 1 + 2 / 3) / 3)


@pytest.mark.parametrize("with_gallery", [False, True])
def test_ties_across_tiles_go_to_the_lower_index(with_gallery):
    rng = np.random.default_rng(3)
    everything = tied_features(rng, MANY_GALLERY)
    queries = everything[:MANY_QUERIES] if with_gallery else everything
    indices, similarities = retrieval.nearest(queries, 9, gallery=everything if with_gallery else None)
    # The loop is slow: some queries of every tile, the first and the last ones among them.
    for row in [0, 1, 2, 511, 512, 513, len(queries) - 2, len(queries) - 1]:
        similarity = everything @ queries[row] / 4
        order = np.lexsort((np.arange(len(everything)), -similarity))
        order = order if with_gallery else order[order != row]
        np.testing.assert_array_equal(indices[row], order[:9])
        np.testing.assert_array_equal(similarities[row], similarity[order[:9]])
        assert similarity[order[0]] == similarity[order[1]], "no tie: the test tests nothing"


def test_copies_of_a_row_have_equal_similarities_wherever_they_stand():
    rng = np.random.default_rng(4)
    gallery = rng.normal(size=(MANY_GALLERY, 37)).astype(np.float32)
    copies = np.array([0, 1, 17, 255, 1000, 4099, 8190, 8191, 8192, 8299])
    gallery[copies] = gallery[5] = rng.normal(size=37)
    queries = np.repeat(gallery[5:6] + 0.1, MANY_QUERIES, axis=0)
    indices, similarities = retrieval.nearest(queries, 11, gallery=gallery)
    assert np.unique(similarities).size == 1
    np.testing.assert_array_equal(indices, np.tile(np.sort([5, *copies]), (MANY_QUERIES, 1)))


@pytest.mark.parametrize("chunk_size", [1, 512, 1000, 100_000])
def test_the_result_has_the_same_bits_for_every_chunk_size(chunk_size):
    rng = np.random.default_rng(5)
    queries, gallery = rng.normal(size=(1100, 37)), rng.normal(size=(MANY_GALLERY, 37))
    expected = retrieval.nearest(queries, 3, gallery=gallery, chunk_size=1536)
    actual = retrieval.nearest(queries, 3, gallery=gallery, chunk_size=chunk_size)
    np.testing.assert_array_equal(actual[0], expected[0])
    np.testing.assert_array_equal(actual[1], expected[1])
    assert actual[0].shape == (1100, 3)


def test_metrics_add_up_over_chunks():
    rng = np.random.default_rng(6)
    queries, labels = rng.normal(size=(1100, 3)), rng.integers(300, size=1100)
    indices, _ = retrieval.nearest(queries, 1)
    expected = np.mean(labels[indices[:, 0]] == labels)
    for chunk_size in (512, 4096):
        assert retrieval.recall_at_k(queries, labels, (1,), chunk_size=chunk_size)[1] == expected
    one_chunk = retrieval.map_at_r(queries, labels)
    assert retrieval.map_at_r(queries, labels, chunk_size=512) == pytest.approx(one_chunk, rel=1e-12)


def test_chunks_in_turns_on_several_devices_come_back_in_order():
    # Where there is one device only, taking turns with itself still tests the order of the answers.
    first, second = (2 * jax.local_devices())[:2]
    queries = np.random.default_rng(7).normal(size=(2100, 5))
    expected = retrieval.nearest(queries, 2, devices=[first])
    actual = retrieval.nearest(queries, 2, chunk_size=512, devices=[first, second])
    np.testing.assert_array_equal(actual[0], expected[0])


def test_equal_data_sets_of_another_content_compile_nothing():
    rng = np.random.default_rng(8)
    retrieval.nearest(rng.normal(size=(1100, 5)), 2, chunk_size=512)
    compiled = retrieval._search._cache_size()
    retrieval.nearest(rng.normal(size=(1100, 5)), 2, chunk_size=512)
    # Other sizes within the same number of tiles neither.
    retrieval.nearest(rng.normal(size=(1030, 5)), 2, chunk_size=512)
    assert retrieval._search._cache_size() == compiled


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, derandomize=True, deadline=None)
def test_the_order_of_the_gallery_does_not_matter_without_ties(seed):
    rng = np.random.default_rng(seed)
    queries, gallery = rng.normal(size=(30, 5)), rng.normal(size=(60, 5))
    order = rng.permutation(60)
    indices, similarities = retrieval.nearest(queries, 4, gallery=gallery)
    shuffled_indices, shuffled_similarities = retrieval.nearest(queries, 4, gallery=gallery[order])
    np.testing.assert_array_equal(order[shuffled_indices], indices)
    np.testing.assert_array_equal(shuffled_similarities, similarities)


@given(seed=st.integers(0, 2**32 - 1), exponents=st.tuples(st.integers(-60, 60), st.integers(-60, 60)))
@settings(max_examples=10, derandomize=True, deadline=None)
def test_the_scale_of_every_feature_does_not_matter(seed, exponents):
    rng = np.random.default_rng(seed)
    queries, gallery = rng.normal(size=(2, 30, 5)).astype(np.float32)
    # Powers of two, so that not a bit may change.
    low, high = sorted(exponents)
    scales = np.exp2(rng.integers(low, high + 1, size=(2, 30, 1))).astype(np.float32)
    indices, similarities = retrieval.nearest(queries, 4, gallery=gallery)
    scaled_indices, scaled_similarities = retrieval.nearest(
        queries * scales[0], 4, gallery=gallery * scales[1]
    )
    np.testing.assert_array_equal(scaled_indices, indices)
    np.testing.assert_array_equal(scaled_similarities, similarities)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, derandomize=True, deadline=None)
def test_recall_grows_with_k(seed):
    rng = np.random.default_rng(seed)
    queries, labels = rng.normal(size=(50, 3)), rng.integers(20, size=50)
    recalls = list(retrieval.recall_at_k(queries, labels, (1, 2, 3, 5, 8, 49)).values())
    assert recalls == sorted(recalls)
    # With all others considered only the lone images miss.
    assert recalls[-1] == np.mean([np.sum(labels == label) > 1 for label in labels])


def test_a_query_never_finds_itself_but_finds_its_copies():
    queries = np.array([[1, 0], [0, 1], [1, 0], [1, 1], [2, 0]], np.float32)
    indices, similarities = retrieval.nearest(queries, 4)
    assert all(number not in row for number, row in enumerate(indices))
    assert indices[0].tolist() == [2, 4, 3, 1]
    assert indices[4].tolist() == [0, 2, 3, 1]
    np.testing.assert_array_equal(similarities[0, :2], [1, 1])
    assert retrieval.recall_at_k(queries, [0, 1, 0, 1, 2], (1,))[1] == 3 / 5


def test_a_separate_gallery_that_holds_the_query_finds_it():
    features = np.eye(3)
    indices, _ = retrieval.nearest(features, 1, gallery=features)
    assert indices[:, 0].tolist() == [0, 1, 2]


def test_a_lone_image_counts_as_a_miss():
    queries = np.array([[1, 0], [1, 0.1], [0, 1]])
    assert retrieval.recall_at_k(queries, ["cat", "cat", "owl"], (1, 2)) == {1: 2 / 3, 2: 2 / 3}
    assert retrieval.map_at_r(queries, ["cat", "cat", "owl"]) == pytest.approx(2 / 3)


def test_a_query_class_missing_from_the_gallery_counts_as_a_miss():
    found = retrieval.recall_at_k([[1, 0], [1, 0]], [3, 9], (1,), gallery=[[1, 0]], gallery_labels=[3])
    assert found == {1: 0.5}
    assert retrieval.map_at_r([[1, 0], [1, 0]], [3, 9], gallery=[[1, 0]], gallery_labels=[3]) == 0.5


def test_one_image_on_its_own_finds_nothing():
    indices, similarities = retrieval.nearest([[1.0, 2.0]], 3)
    assert indices.shape == similarities.shape == (1, 0)
    assert retrieval.recall_at_k([[1.0, 2.0]], [0]) == {1: 0.0, 2: 0.0, 4: 0.0, 8: 0.0}
    assert retrieval.map_at_r([[1.0, 2.0]], [0]) == 0.0


def test_a_k_beyond_the_gallery_considers_all_of_it():
    rng = np.random.default_rng(9)
    queries, gallery = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    indices, _ = retrieval.nearest(queries, 100, gallery=gallery)
    assert np.sort(indices, axis=1).tolist() == [list(range(6))] * 4
    indices, similarities = retrieval.nearest(queries, 100)
    assert np.sort(indices, axis=1).tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert np.isfinite(similarities).all()
    assert retrieval.recall_at_k(queries, [0, 1, 0, 2], (3, 100)) == {3: 0.5, 100: 0.5}


def test_a_row_of_zeros_is_equally_far_from_everything():
    queries = np.array([[0, 0], [1, 0], [-1, 0.5], [0, 0]])
    indices, similarities = retrieval.nearest(queries, 3)
    assert indices[0].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(similarities[0], [0, 0, 0])
    assert indices[1].tolist() == [0, 3, 2]


def test_a_negative_zero_ties_with_zero(monkeypatch):
    # A sum of products that underflow is -0.0 on some machines; here every other zero is made one.
    def product_with_negative_zeros(*args, product=jax.lax.dot_general, **kwargs):
        result = product(*args, **kwargs)
        even = jnp.arange(result.shape[1])[None, :] % 2 == 0
        return jnp.where((result == 0) & even, -0.0, result)

    search = jax.jit(retrieval._search.__wrapped__, static_argnames="k")
    monkeypatch.setattr(retrieval, "_search", search)
    monkeypatch.setattr(jax.lax, "dot_general", product_with_negative_zeros)
    indices, similarities = retrieval.nearest([[1.0, 0.0]], 4, gallery=[[0.0, 1.0]] * 4)
    assert indices.tolist() == [[0, 1, 2, 3]]
    assert not np.signbit(similarities).any()


def test_similarities_are_cosines():
    rng = np.random.default_rng(10)
    queries, gallery = rng.normal(size=(20, 64)) * 1e3, rng.normal(size=(30, 64)) * 1e-3
    indices, similarities = retrieval.nearest(queries, 30, gallery=gallery)
    expected_indices, expected = loop_nearest(queries, 30, gallery)
    np.testing.assert_allclose(similarities, expected, atol=3e-7)
    np.testing.assert_array_equal(indices, expected_indices)
    assert similarities.dtype == np.float32


def test_accelerators_are_asked_for_full_precision():
    # On a CPU every precision gives the same numbers, so the compiled program itself is read.
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((512, 4), (2, 8192, 4))]
    rows, size = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((512,), ()))
    program = retrieval._search.lower(shapes[0], rows, shapes[1], size, k=1).as_text()
    [product] = [line for line in program.splitlines() if "dot_general" in line]
    assert "precision = [HIGHEST, HIGHEST]" in product


@pytest.mark.parametrize("dtype", [np.int32, np.float16, jnp.bfloat16, np.float64])
def test_other_types_are_searched_in_float32(dtype):
    features = tied_features(np.random.default_rng(11), 20)
    expected = retrieval.nearest(features, 3)
    actual = retrieval.nearest(features.astype(dtype), 3)
    np.testing.assert_array_equal(actual[0], expected[0])
    np.testing.assert_array_equal(actual[1], expected[1])
    assert actual[1].dtype == np.float32


def test_float64_is_searched_in_float64_where_jax_has_it():
    features = np.random.default_rng(13).normal(size=(20, 5))
    with jax.enable_x64(True):
        indices, similarities = retrieval.nearest(features, 3)
    expected_indices, expected = loop_nearest(features, 3)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(similarities, expected, rtol=0, atol=1e-15)


def test_normalised_rows_have_length_one_whatever_their_scale():
    features = np.random.default_rng(12).normal(size=(6, 3, 8)).astype(np.float32)
    expected = features / np.linalg.norm(features.astype(np.float64), axis=-1, keepdims=True)
    for scale in (1e-30, 1.0, 1e30):
        np.testing.assert_allclose(retrieval.normalise(features * np.float32(scale)), expected, atol=2e-7)
    assert retrieval.normalise([[3, 4]]).tolist() == [[np.float32(0.6), np.float32(0.8)]]


def test_a_row_of_zeros_stays_zero_and_has_a_finite_gradient():
    np.testing.assert_array_equal(retrieval.normalise(np.zeros((2, 3))), np.zeros((2, 3)))
    assert np.isfinite(jax.grad(lambda x: retrieval.normalise(x)[0])(jnp.zeros(3))).all()


def test_the_gradient_of_normalise_is_the_projection_off_the_row():
    row = jnp.array([1.0, -2.0, 2.0])
    unit = np.array([1, -2, 2]) / 3
    expected = (np.eye(3) - np.outer(unit, unit)) / 3
    np.testing.assert_allclose(jax.jit(jax.jacobian(retrieval.normalise))(row), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": np.zeros((0, 3)), "query_labels": []}, r"queries must be a non-empty .* \(0, 3\)"),
        ({"queries": np.zeros((2, 0))}, r"non-empty .* \(2, 0\)"),
        ({"queries": np.zeros(2)}, r"non-empty .* \(2,\)"),
        ({"query_labels": [0]}, r"query_labels .* \(1,\) .* \(2, 3\)"),
        ({"query_labels": [[0], [1]]}, r"query_labels .* \(2, 1\)"),
        ({"gallery": np.zeros((2, 3))}, "got gallery without gallery_labels"),
        ({"gallery_labels": [0, 1]}, "got gallery_labels without gallery"),
        ({"gallery": np.zeros((2, 3)), "gallery_labels": [0]}, r"gallery_labels .* \(1,\) .* \(2, 3\)"),
        ({"gallery": np.zeros((0, 3)), "gallery_labels": []}, "gallery must be a non-empty"),
        ({"gallery": np.zeros((2, 5)), "gallery_labels": [0, 1]}, "same width, got 3 and 5"),
        ({"gallery": [[0, 0, 0], [0, np.inf, 0]], "gallery_labels": [0, 1]}, "gallery must be finite.*row 1"),
        ({"queries": [[np.nan, 0, 0], [0, 0, 0]]}, "queries must be finite.*row 0"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("metric", [retrieval.recall_at_k, retrieval.map_at_r])
def test_input_that_cannot_be_searched_is_an_error(metric, arguments, message):
    with pytest.raises(ValueError, match=message):
        metric(**{"queries": np.ones((2, 3)), "query_labels": [0, 1]} | arguments)


@pytest.mark.parametrize(("ks", "message"), [((), "at least one"), ((2, 0), r"ks=\(2, 0\)")])
def test_numbers_of_neighbours_that_make_no_sense_are_errors(ks, message):
    with pytest.raises(ValueError, match=message):
        retrieval.recall_at_k(np.ones((2, 3)), [0, 1], ks)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        retrieval.nearest(np.ones((2, 3)), 0)


def test_a_single_number_of_neighbours_is_fine():
    features = np.eye(4)[[0, 0, 1, 2]]
    found = retrieval.recall_at_k(features, [0, 0, 1, 1], ks=1)
    assert found == retrieval.recall_at_k(features, [0, 0, 1, 1], ks=(1,)) == {1: 0.5}
