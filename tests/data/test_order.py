"""Which examples make up which batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_jax.data.order import evaluation_order, training_order


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5), st.integers(0, 5))
def test_training_takes_no_example_twice_and_fills_every_batch(count, batch_size, seed, epoch):
    if count < batch_size:
        with pytest.raises(ValueError, match=f"{count} examples"):
            training_order(count, batch_size, seed=seed, epoch=epoch)
        return
    order = training_order(count, batch_size, seed=seed, epoch=epoch)
    assert order.shape == (count // batch_size, batch_size)
    assert len(np.unique(order)) == order.size
    assert order.min() >= 0
    assert order.max() < count


def test_orders_differ_by_seed_and_epoch_and_repeat():
    orders = [training_order(50, 10, seed=s, epoch=e) for s in (0, 1) for e in (0, 1)]
    for i, first in enumerate(orders):
        for second in orders[:i]:
            assert not np.array_equal(first, second)
    np.testing.assert_array_equal(orders[0], training_order(50, 10, seed=0, epoch=0))


def test_over_many_epochs_every_example_is_trained_equally_often():
    counts = np.zeros(13)
    for epoch in range(400):
        counts[training_order(13, 5, seed=7, epoch=epoch)] += 1
    expected = 400 * 10 / 13
    assert np.abs(counts - expected).max() < 5 * np.sqrt(400 * (10 / 13) * (3 / 13))


@given(st.integers(1, 60), st.integers(1, 20))
def test_evaluation_takes_every_example_once_before_the_filling(count, batch_size):
    order = evaluation_order(count, batch_size)
    assert order.shape == (-(-count // batch_size), batch_size)
    np.testing.assert_array_equal(order.ravel()[:count], np.arange(count))
    assert order.max() < count


@given(st.lists(st.integers(0, 4), min_size=8, max_size=60))
def test_balanced_sampling_draws_classes_equally_often(labels):
    labels = np.array(labels, np.int32)
    order = training_order(len(labels), 1, seed=0, epoch=3, balance=labels).ravel()
    drawn = np.bincount(labels[order], minlength=5)[np.unique(labels)]
    assert len(order) == len(labels)
    assert drawn.max() - drawn.min() <= 1
