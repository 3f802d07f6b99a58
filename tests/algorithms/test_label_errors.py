"""Suspected labels against the counting of Northcutt et al., written as a loop."""

import numpy as np
import pytest

from finetune_jax.algorithms import label_errors


def by_loops(chances, labels):
    """Section 3.1: the confident joint, example by example."""
    count = chances.shape[1]
    thresholds = {}
    for c in range(count):
        own = [row[c] for row, label in zip(chances, labels, strict=True) if label == c]
        if own:
            thresholds[c] = sum(own) / len(own)
    found = {}
    for place, (row, label) in enumerate(zip(chances, labels, strict=True)):
        among = [c for c in thresholds if row[c] >= thresholds[c]]
        if among:
            best = max(among, key=lambda c: (row[c], -c))
            if best != label and row[best] > row[label]:
                found[place] = best
    return found


def made_up(seed, n=200, c=4):
    rng = np.random.default_rng(seed)
    true = rng.integers(c, size=n)
    logits = rng.normal(0, 1, (n, c))
    logits[np.arange(n), true] += 5
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = true.copy()
    flipped = rng.choice(n, n // 10, replace=False)
    labels[flipped] = (labels[flipped] + 1) % c
    return chances, labels, flipped, true


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_suspects_are_those_of_a_loop(seed):
    chances, labels, _, _ = made_up(seed)
    found = label_errors.suspects(chances, labels)
    assert dict(zip(found.places.tolist(), found.suggested.tolist(), strict=True)) == by_loops(
        chances, labels
    )
    assert (np.diff(found.margins) <= 0).all()


def test_most_of_the_labels_that_were_changed_are_found_and_few_others():
    chances, labels, flipped, true = made_up(3, n=1000)
    found = label_errors.suspects(chances, labels)
    hit = np.isin(found.places, flipped)
    assert hit.sum() > 0.7 * len(flipped)
    assert hit.mean() > 0.7
    assert (found.suggested[hit] == true[found.places[hit]]).mean() > 0.9


def test_what_is_less_likely_than_asked_for_is_not_suspected():
    chances, labels, _, _ = made_up(0)
    found = label_errors.suspects(chances, labels, at_least=0.5)
    expected = {place for place, best in by_loops(chances, labels).items() if chances[place, best] >= 0.5}
    assert set(found.places.tolist()) == expected


def test_a_class_without_images_is_suggested_for_none():
    chances = np.array([[0.1, 0.1, 0.8], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    assert label_errors.suspects(chances, np.array([0, 0, 1])).suggested.tolist() == []


def test_no_images_have_no_suspects_and_wrong_shapes_are_refused():
    assert not len(label_errors.suspects(np.zeros((0, 3)), np.zeros(0, int)).places)
    with pytest.raises(ValueError, match=r"\[N, C\]"):
        label_errors.suspects(np.zeros((2, 3)), np.zeros(3, int))
    with pytest.raises(ValueError, match="labels must be 0 … 2"):
        label_errors.suspects(np.zeros((1, 3)), np.array([3]))
