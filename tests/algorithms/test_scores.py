"""Scores under weights are scikit-learn's with the same weights, and intervals are those of images drawn again."""

import numpy as np
import pytest
from sklearn import metrics

from finetune_jax.algorithms import scores

N, C = 60, 7
RNG = np.random.default_rng(3)
# Coarse values, so that there are ties.
CHANCES = np.round(RNG.dirichlet(np.ones(C), N), 2) + 1e-3
CHANCES /= CHANCES.sum(1, keepdims=True)
LABELS = np.concatenate([np.arange(C), RNG.integers(C, size=N - C)])
WEIGHTS = np.stack([np.ones(N), RNG.integers(1, 4, N), np.r_[np.ones(30), np.zeros(30)]]).astype(float)
TARGETS = (RNG.random((N, 4)) < 0.4).astype(float)
YES = np.round(RNG.random((N, 4)), 1)


def test_scores_of_classes_are_those_of_scikit_learn():
    found = scores.of_classes(CHANCES, LABELS)(WEIGHTS)
    said = CHANCES.argmax(1)
    for row, weights in enumerate(WEIGHTS):
        used = weights > 0
        args = {"sample_weight": weights[used]}
        truth, answers = LABELS[used], said[used]
        expected = {
            "accuracy": metrics.accuracy_score(truth, answers, **args),
            "balanced_accuracy": metrics.balanced_accuracy_score(truth, answers, **args),
            "macro_f1": metrics.f1_score(truth, answers, average="macro", **args),
            "cohen_kappa": metrics.cohen_kappa_score(truth, answers, **args),
            "loss": metrics.log_loss(truth, CHANCES[used], labels=np.arange(C), **args),
        }
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, abs=1e-12), name
    untied = RNG.dirichlet(np.ones(C), N)  # scikit-learn gives ties to the higher class
    top = scores.plain(scores.of_classes(untied, LABELS), N)["top5_accuracy"]
    assert top == pytest.approx(metrics.top_k_accuracy_score(LABELS, untied, k=5), abs=1e-12)


def test_rankings_are_those_of_scikit_learn_also_with_ties():
    truth = LABELS[:, None] == np.arange(C)
    found = scores.of_ranking(CHANCES, truth)(WEIGHTS)
    for row, weights in enumerate(WEIGHTS[:2]):
        areas = metrics.roc_auc_score(
            LABELS, CHANCES, multi_class="ovr", average="macro", sample_weight=weights
        )
        precisions = metrics.average_precision_score(truth, CHANCES, average="macro", sample_weight=weights)
        assert found["auroc"][row] == pytest.approx(areas, abs=1e-12)
        assert found["average_precision"][row] == pytest.approx(precisions, abs=1e-12)
    one_class = scores.of_ranking(CHANCES[:, :1], np.ones((N, 1), bool))(WEIGHTS)
    assert np.isnan(one_class["auroc"]).all()
    assert (one_class["average_precision"] == 1).all()


def test_scores_of_several_labels_are_those_of_scikit_learn():
    thresholds = np.array([0.3, 0.5, 0.7, 0.9])
    found = scores.of_labels(YES, TARGETS, thresholds)(WEIGHTS)
    for row, weights in enumerate(WEIGHTS):
        args = {"sample_weight": weights, "zero_division": 0}
        said = thresholds <= YES
        assert found["micro_f1"][row] == pytest.approx(
            metrics.f1_score(TARGETS, said, average="micro", **args)
        )
        assert found["macro_f1"][row] == pytest.approx(
            metrics.f1_score(TARGETS, said, average="macro", **args)
        )
        exact = metrics.accuracy_score(TARGETS, said, sample_weight=weights)
        assert found["exact_match"][row] == pytest.approx(exact)


def test_errors_of_numbers_are_those_of_scikit_learn():
    truth = 1e4 + RNG.normal(size=(N, 2)) * [1, 50]
    values = truth + RNG.normal(size=(N, 2))
    found = scores.of_numbers(values, truth)(WEIGHTS)
    for row, weights in enumerate(WEIGHTS):
        args = {"sample_weight": weights}
        assert found["mae"][row] == pytest.approx(metrics.mean_absolute_error(truth, values, **args))
        rmse = metrics.root_mean_squared_error(truth, values, **args)
        assert found["rmse"][row] == pytest.approx(rmse)
        assert found["r2"][row] == pytest.approx(metrics.r2_score(truth, values, **args), abs=1e-9)
    constant = np.ones((N, 1))
    assert scores.plain(scores.of_numbers(constant, constant), N)["r2"] == 1
    assert scores.plain(scores.of_numbers(constant + 1, constant), N)["r2"] == 0


def test_scores_of_grades_are_those_of_scikit_learn():
    grades = np.arange(C) * 10.0
    found = scores.of_grades(CHANCES, LABELS, grades)(WEIGHTS)
    said = CHANCES.argmax(1)
    for row, weights in enumerate(WEIGHTS):
        kappa = metrics.cohen_kappa_score(
            LABELS, said, weights="quadratic", sample_weight=weights, labels=np.arange(C)
        )
        mae = metrics.mean_absolute_error(grades[LABELS], grades[said], sample_weight=weights)
        assert found["quadratic_kappa"][row] == pytest.approx(kappa)
        assert found["mae"][row] == pytest.approx(mae)


def test_the_calibration_error_is_the_weighted_gap_of_its_bins():
    sure, right = CHANCES.max(1), CHANCES.argmax(1) == LABELS
    found = scores.plain(scores.of_calibration(sure, right), N)["calibration_error"]
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (sure > low) & (sure <= low + 0.1)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert found == pytest.approx(expected)


def test_intervals_are_quantiles_over_images_drawn_with_replacement():
    right = (CHANCES.argmax(1) == LABELS).astype(float)
    function = scores.of_classes(CHANCES, LABELS)
    found = scores.intervals(function, N, samples=2000, seed=1)
    assert found == scores.intervals(function, N, samples=2000, seed=1)
    rng = np.random.default_rng(99)
    drawn = np.quantile([right[rng.integers(N, size=N)].mean() for _ in range(4000)], (0.025, 0.975))
    np.testing.assert_allclose(found["accuracy"], drawn, atol=0.02)
    f1 = [
        metrics.f1_score(LABELS[i], CHANCES.argmax(1)[i], average="macro")
        for i in rng.integers(N, size=(300, N))
    ]
    np.testing.assert_allclose(found["macro_f1"], np.quantile(f1, (0.025, 0.975)), atol=0.05)


def test_a_group_has_the_scores_of_its_members():
    names = np.array(["b", "a", "a"])[np.arange(N) % 3]
    found = scores.of_groups(scores.of_classes(CHANCES, LABELS), names)
    assert list(found) == ["a", "b"]
    for name, (count, values) in found.items():
        inside = names == name
        assert count == inside.sum()
        assert values["accuracy"] == pytest.approx((CHANCES.argmax(1) == LABELS)[inside].mean())
