"""Classification metrics against counting loops, closed forms and scikit-learn."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_jax.algorithms import metrics


def random_case(seed, images=50, classes=7):
    rng = np.random.default_rng(seed)
    # Few levels, so that ties are common.
    return rng.integers(-3, 3, (images, classes)).astype(np.float32), rng.integers(classes, size=images)


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_counts_rows_whose_first_largest_logit_is_the_label(seed):
    logits, labels = random_case(seed)
    expected = sum(
        max(range(7), key=lambda c: row[c]) == label for row, label in zip(logits, labels, strict=True)
    )
    assert metrics.accuracy(logits, labels) == expected / 50


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_top_k_accuracy_takes_the_first_k_of_a_stable_sort(k):
    logits, labels = random_case(4)
    expected = sum(
        label in sorted(range(7), key=lambda c: (-row[c], c))[:k]
        for row, label in zip(logits, labels, strict=True)
    )
    assert 0 < expected < 50
    assert metrics.top_k_accuracy(logits, labels, k) == expected / 50


def test_top_1_accuracy_is_accuracy_even_with_ties():
    logits, labels = random_case(5)
    assert metrics.top_k_accuracy(logits, labels, 1) == metrics.accuracy(logits, labels)


def test_constant_logits_predict_class_0():
    assert metrics.accuracy(np.zeros((4, 3)), [0, 1, 2, 0]) == 0.5
    assert metrics.top_k_accuracy(np.zeros((4, 3)), [0, 1, 2, 0], 2) == 0.75


def test_top_k_beyond_the_classes_is_always_right():
    logits, labels = random_case(6)
    assert metrics.top_k_accuracy(logits, labels, 7) == metrics.top_k_accuracy(logits, labels, 100) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_cross_entropy_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(30, 4)), rng.integers(4, size=30)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = sklearn.metrics.log_loss(labels, softmax, labels=range(4))
    assert metrics.cross_entropy(logits, labels) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("logits", "label", "expected"),
    [
        ([0.0, 0.0, 0.0], 1, math.log(3)),
        ([1e4, 0.0], 1, 1e4),
        ([-1e30, -1e30], 0, math.log(2)),
        ([3e38, -3e38], 0, 0.0),
        ([0.0, -math.inf, 0.0], 2, math.log(2)),
        ([0.0, -math.inf], 1, math.inf),
        ([50.0, 0.0], 0, math.exp(-50)),
    ],
)
def test_cross_entropy_of_extreme_logits(logits, label, expected):
    actual = metrics.cross_entropy(np.array([logits], np.float32), [label])
    assert actual == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(shift=st.floats(-1e6, 1e6))
@settings(max_examples=20, derandomize=True)
def test_cross_entropy_ignores_a_shift_of_all_logits(shift):
    logits, labels = random_case(7)
    logits = logits.astype(np.float64)
    actual = metrics.cross_entropy(logits + shift, labels)
    assert actual == pytest.approx(metrics.cross_entropy(logits, labels), abs=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_confusion_matrix_and_balanced_accuracy_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(5, size=(2, 60))
    confusion = metrics.confusion_matrix(predictions, labels, 5)
    np.testing.assert_array_equal(
        confusion, sklearn.metrics.confusion_matrix(labels, predictions, labels=range(5))
    )
    recalls = sklearn.metrics.recall_score(labels, predictions, labels=range(5), average=None)
    np.testing.assert_allclose(metrics.per_class_recall(confusion), recalls, rtol=1e-15)
    expected = sklearn.metrics.balanced_accuracy_score(labels, predictions)
    assert metrics.balanced_accuracy(confusion) == pytest.approx(expected, rel=1e-15)


def test_rows_are_labels_and_columns_are_predictions():
    confusion = metrics.confusion_matrix([1, 1, 2], [0, 0, 2], 3)
    assert confusion.tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 1]]


def test_confusion_matrices_of_batches_add_up():
    labels, predictions = np.random.default_rng(8).integers(4, size=(2, 30))
    parts = [metrics.confusion_matrix(predictions[i : i + 7], labels[i : i + 7], 4) for i in range(0, 30, 7)]
    np.testing.assert_array_equal(sum(parts), metrics.confusion_matrix(predictions, labels, 4))


def test_small_integer_types_do_not_overflow_the_confusion_matrix():
    classes = np.array([199, 0, 17], np.uint8)
    confusion = metrics.confusion_matrix(classes, classes, 200)
    assert confusion[199, 199] == confusion[0, 0] == confusion[17, 17] == 1
    assert confusion.sum() == 3


def test_a_class_without_images_has_no_recall_and_no_weight():
    # Class 1 is predicted once but never present: not a recall of 0.
    confusion = metrics.confusion_matrix([0, 1, 2, 2], [0, 0, 2, 2], 4)
    np.testing.assert_array_equal(metrics.per_class_recall(confusion), [0.5, np.nan, 1.0, np.nan])
    assert metrics.balanced_accuracy(confusion) == 0.75


def test_balanced_accuracy_weighs_a_rare_class_like_a_common_one():
    labels = [0] * 99 + [1]
    assert metrics.balanced_accuracy(metrics.confusion_matrix([0] * 100, labels, 2)) == 0.5


def test_balanced_accuracy_of_no_images_is_an_error():
    confusion = metrics.confusion_matrix([], [], 3)
    assert np.isnan(metrics.per_class_recall(confusion)).all()
    with pytest.raises(ValueError, match="at least one image"):
        metrics.balanced_accuracy(confusion)


@pytest.mark.parametrize(
    "metric", [metrics.accuracy, metrics.cross_entropy, lambda *a: metrics.top_k_accuracy(*a, 2)]
)
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 3)), [], "non-empty"),
        (np.zeros(3), [0], r"shape \(3,\)"),
        (np.zeros((2, 3)), [0], "2 and 1"),
        (np.zeros((2, 3)), [0, 3], r"\[0, 3\), got 3"),
        (np.zeros((2, 3)), [-1, 0], "got -1"),
        (np.zeros((2, 3)), [0.0, 1.0], "float64"),
        (np.array([[0, 0], [np.nan, 0]]), [0, 1], "row 1"),
        (np.array([[np.inf, 0], [0, 0]]), [0, 1], "row 0"),
    ],
)
def test_input_that_has_no_metric_is_an_error(metric, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(logits, labels)


def test_other_wrong_arguments_are_errors():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        metrics.top_k_accuracy(np.zeros((1, 2)), [0], 0)
    with pytest.raises(ValueError, match="2 and 1"):
        metrics.confusion_matrix([0, 1], [0], 2)
    with pytest.raises(ValueError, match=r"predictions must lie in \[0, 2\), got 5"):
        metrics.confusion_matrix([5], [0], 2)
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        metrics.per_class_recall(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="only -inf in row 1"):
        metrics.cross_entropy([[0.0, 0.0], [-np.inf, -np.inf]], [0, 0])
