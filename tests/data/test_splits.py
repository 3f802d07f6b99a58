"""Which examples and classes are held out, and that it never depends on anything but counts and seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_jax.data.splits import class_split, num_validation_classes, stratified_split


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


labels_strategy = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(lambda x: np.array(x, np.int32))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(labels=labels_strategy, fraction=st.floats(0.0, 0.95), seed=st.integers(0, 9))
def test_a_split_is_a_partition_that_leaves_every_class_an_example(labels, fraction, seed):
    kept, held_out = stratified_split(labels, fraction, rng=generator(seed))
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(len(labels)))
    assert set(labels[kept]) == set(labels)
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held_out) > 0).all()


@settings(max_examples=60, derandomize=True, deadline=None)
@given(labels=labels_strategy, fraction=st.floats(0.01, 0.95))
def test_the_size_is_the_fraction_as_far_as_the_classes_can_give(labels, fraction):
    _, held_out = stratified_split(labels, fraction, rng=generator(0))
    most = sum(np.count_nonzero(labels == label) - 1 for label in np.unique(labels))
    assert len(held_out) == min(max(round(fraction * len(labels)), 1), most)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(labels=labels_strategy, fraction=st.floats(0.0, 0.6))
def test_every_class_gives_its_share_rounded_down(labels, fraction):
    _, held_out = stratified_split(labels, fraction, rng=generator(0))
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert np.count_nonzero(labels[held_out] == label) >= min(np.floor(fraction * count), count - 1)


def test_the_largest_remainders_round_up_and_the_first_class_among_equals():
    # Shares of 30 %: 1.5, 0.9, 0.6, 0.6 of 3.6, rounded to 4: one each to begin with (floor: 1, 0, 0, 0),
    # then the remainders 0.9, 0.6 and 0.6 get the three that are missing, 0.5 none.
    labels = np.repeat([0, 1, 2, 3], [5, 3, 2, 2])
    _, held_out = stratified_split(labels, 0.3, rng=generator(0))
    np.testing.assert_array_equal(np.bincount(labels[held_out], minlength=4), [1, 1, 1, 1])
    # 40 % of two and two and two: 0.8 each of 2.4, rounded to 2: the first two classes.
    labels = np.repeat([0, 1, 2], 2)
    _, held_out = stratified_split(labels, 0.4, rng=generator(0))
    np.testing.assert_array_equal(np.bincount(labels[held_out], minlength=3), [1, 1, 0])


def test_the_sizes_do_not_depend_on_the_seed_but_the_members_do():
    labels = np.repeat(np.arange(7), np.arange(10, 17))
    splits = [stratified_split(labels, 0.25, rng=generator(seed))[1] for seed in range(4)]
    assert len({tuple(np.bincount(labels[held_out])) for held_out in splits}) == 1
    assert len({tuple(held_out) for held_out in splits}) == 4
    np.testing.assert_array_equal(splits[2], stratified_split(labels, 0.25, rng=generator(2))[1])


def test_every_example_of_a_class_is_held_out_equally_often():
    labels = np.repeat([0, 1], [8, 4])
    drawn = np.concatenate([stratified_split(labels, 0.25, rng=generator(seed))[1] for seed in range(800)])
    # 3 of 12: the share of class 0 is 2 of 8, of class 1 it is 1 of 4: a quarter of 800 each, binomial.
    assert np.abs(np.bincount(drawn, minlength=12) - 200).max() < 5 * np.sqrt(800 * 0.25 * 0.75)


def test_the_split_of_a_seed_stays_the_same_over_versions():
    """Golden, made by this code under NumPy 2.4.6: another split would make recorded results incomparable."""
    labels = np.arange(30) % 3
    _, held_out = stratified_split(labels, 0.2, rng=np.random.Generator(np.random.PCG64([0, 1])))
    np.testing.assert_array_equal(held_out, [7, 10, 11, 15, 18, 23])


def test_classes_of_single_examples_give_nothing():
    kept, held_out = stratified_split(np.arange(5), 0.5, rng=generator(0))
    np.testing.assert_array_equal(kept, np.arange(5))
    assert len(held_out) == 0


def test_fraction_zero_holds_nothing_out():
    _, held_out = stratified_split(np.zeros(10, np.int32), 0.0, rng=generator(0))
    assert len(held_out) == 0


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        stratified_split(np.zeros(10, np.int32), fraction, rng=generator(0))
    with pytest.raises(ValueError, match="fraction"):
        num_validation_classes(10, fraction)


@pytest.mark.parametrize(
    ("num_classes", "train"),
    [(200, 100), (196, 98), (10, 5), (11, 5), (4, 2)],  # the first two: CUB-200-2011 and CARS196
)
def test_the_first_half_of_the_classes_trains_and_the_rest_tests(num_classes, train):
    training, test = class_split(num_classes)
    assert list(training) == list(range(train))
    assert list(test) == list(range(train, num_classes))


def test_three_classes_cannot_be_split():
    with pytest.raises(ValueError, match="at least 4 classes, not 3"):
        class_split(3)


@pytest.mark.parametrize(
    ("classes", "fraction", "expected"),
    [
        (100, 0.1, 10),
        (98, 0.1, 10),
        (5, 0.1, 2),
        (4, 0.1, 2),
        (3, 0.1, 0),
        (2, 0.5, 0),
        (100, 0.0, 0),
        (6, 0.9, 4),
    ],
)
def test_validation_classes_are_none_or_two_at_least_and_leave_two(classes, fraction, expected):
    assert num_validation_classes(classes, fraction) == expected
