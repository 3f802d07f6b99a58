"""LogME beside a direct maximisation of the evidence, and the probes."""

import numpy as np
import pytest
from scipy import optimize, stats

from finetune_jax.algorithms import transferability


def evidence_of(features: np.ndarray, target: np.ndarray, alpha: float, beta: float) -> float:
    """The marginal of the labels as what it is, a normal distribution of N dimensions."""
    covariance = np.eye(len(target)) / beta + features @ features.T / alpha
    return float(stats.multivariate_normal.logpdf(target, np.zeros(len(target)), covariance))


@pytest.mark.parametrize("shape", [(40, 6), (12, 20)], ids=["more images", "more features"])
def test_logme_is_the_maximum_of_the_evidence(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=shape), np.arange(shape[0]) % 3
    features[:, 0] += labels
    expected = []
    for label in range(3):
        target = (labels == label).astype(float)
        starts = [np.array([a, b]) for a in (-1.0, 2.0) for b in (1.0, 4.0)]
        found = [
            optimize.minimize(
                lambda logs, y: -evidence_of(features, y, *np.exp(np.clip(logs, -15, 15))),
                start,
                args=(target,),
                method="Nelder-Mead",
                options={"xatol": 1e-6, "fatol": 1e-10},
            ).fun
            for start in starts
        ]
        expected.append(-min(found) / shape[0])
    assert transferability.logme(features, labels) == pytest.approx(np.mean(expected), abs=1e-5)


def test_logme_is_higher_where_the_features_tell_the_classes() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 3
    noise = rng.normal(size=(60, 8))
    telling = noise.copy()
    telling[:, :3] += 3 * np.eye(3)[labels]
    assert transferability.logme(telling, labels) > transferability.logme(noise, labels)


def test_logme_stays_finite_where_the_fit_is_perfect_or_features_are_constant() -> None:
    labels = np.arange(6) % 2
    assert np.isfinite(transferability.logme(np.eye(6), labels))
    assert np.isfinite(transferability.logme(np.zeros((6, 3)), labels))
    with pytest.raises(ValueError, match="two classes"):
        transferability.logme(np.eye(3), [1, 1, 1])
    with pytest.raises(ValueError, match="shape"):
        transferability.logme(np.eye(3), [0, 1])


def test_no_image_is_labelled_by_a_probe_that_has_seen_it() -> None:
    folds = np.arange(9) % 3
    features = np.arange(9.0)[:, None]

    def spy(known: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
        assert not set(known[:, 0]) & set(others[:, 0])
        assert len(known) == len(labels) == 6
        return 10 * others[:, 0].astype(int)

    found = transferability.cross_validated(features, np.zeros(9, int), folds, spy)
    assert found.tolist() == [10 * i for i in range(9)]


def test_the_learning_curve_learns_from_so_many_images_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.array([0] * 4 + [1] * 10)
    features = np.arange(14.0)[:, None]
    seen = []

    def spy(known: np.ndarray, of: np.ndarray, others: np.ndarray) -> np.ndarray:
        seen.append((set(known[:, 0]), np.bincount(of).tolist()))
        return np.zeros(len(others), int)

    monkeypatch.setattr(transferability, "ridge_predictions", spy)
    curve = transferability.learning_curve(features, labels, features, labels, [2, 6], draws=2)
    assert [counts for _, counts in seen] == [[2, 2], [4, 6]] * 2
    assert seen[0][0] < seen[1][0]
    assert seen[0][0] != seen[2][0]
    assert curve == {2: [4 / 14] * 2, 6: [4 / 14] * 2}
