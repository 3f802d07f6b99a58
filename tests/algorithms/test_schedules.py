"""Schedules at epochs worked by hand, and against the formulas of their papers."""

import math

import jax
import numpy as np
import optax
import pytest

from finetune_jax.algorithms import schedules

EPOCHS = 50  # of Table 5 of AutoLR


def rates(schedule, epochs=EPOCHS):
    return [schedule(epoch) for epoch in range(epochs)]


def test_constant_stays():
    assert set(rates(schedules.constant(0.3))) == {0.3}


def test_multi_step_drops_at_each_of_its_epochs():
    schedule = schedules.multi_step(0.1, (40, 60, 80), 0.1)
    epochs = (0, 39, 40, 59, 60, 79, 80, 110)
    expected = [0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4]
    np.testing.assert_allclose([schedule(epoch) for epoch in epochs], expected, rtol=1e-12)


def test_step_decay_drops_once():
    schedule = schedules.step_decay(0.01, 40, 0.2)
    np.testing.assert_allclose(rates(schedule), [0.01] * 40 + [0.002] * 10, rtol=1e-12)


def test_cosine_falls_from_the_peak_over_one_half_to_zero_and_stays():
    schedule = schedules.cosine(0.4, 8)
    np.testing.assert_allclose(
        [schedule(epoch) for epoch in (0, 2, 4, 8, 100)],
        [0.4, 0.2 * (1 + math.sqrt(0.5)), 0.2, 0, 0],
        atol=1e-16,
    )


def test_a_restarted_schedule_is_one_schedule_after_the_other():
    schedule = schedules.restarted(lambda epochs: schedules.cosine(1.0, epochs), 9, restarts=(2, 5))
    pieces = [schedules.cosine(1.0, length) for length in (2, 3, 4)]
    for first, piece, length in zip((0, 2, 5), pieces, (2, 3, 4), strict=True):
        for step in np.arange(0, length, 0.25):
            assert schedule(first + step) == piece(step)
    for restarts in [(0,), (9,), (5, 2), (3, 3)]:
        with pytest.raises(ValueError, match="restarts must ascend between 1 and 8"):
            schedules.restarted(schedules.constant, 9, restarts)


def test_one_cycle_is_a_triangle():
    schedule = schedules.cyclic(0.1, 0.5, cycles=1, epochs=8)
    expected = [0.1, 0.2, 0.3, 0.4, 0.5, 0.4, 0.3, 0.2, 0.1]
    np.testing.assert_allclose(rates(schedule, 9), expected, rtol=1e-12)


@pytest.mark.parametrize("cycles", [1, 3, 5, 7, 9, 15])
def test_cycles_follow_the_formula_of_smith(cycles):
    schedule = schedules.cyclic(0.001, 0.01, cycles, EPOCHS)
    half = EPOCHS / cycles / 2  # his step size
    for epoch in np.arange(0, EPOCHS, 0.25):
        number = math.floor(1 + epoch / (2 * half))
        x = abs(epoch / half - 2 * number + 1)
        assert schedule(epoch) == pytest.approx(0.001 + 0.009 * max(0, 1 - x), rel=1e-9)
    assert schedule(EPOCHS) == schedule(EPOCHS + 5) == 0.001


def test_each_period_of_sgdr_is_half_a_cosine():
    schedule = schedules.sgdr(1.0, 3.0, resets=1, epochs=8)
    tilt = math.sqrt(0.5)
    period = [3, 2 + tilt, 2, 2 - tilt]
    np.testing.assert_allclose(rates(schedule, 9), [*period, *period, 1], rtol=1e-12)


@pytest.mark.parametrize("resets", [0, 2, 4, 6, 8, 14])
def test_periods_follow_the_formula_of_loshchilov_and_hutter(resets):
    schedule = schedules.sgdr(0.001, 0.01, resets, EPOCHS)
    starts = [EPOCHS * i / (resets + 1) for i in range(resets + 1)]
    for epoch in np.arange(0, EPOCHS, 0.25):
        since = epoch - max(start for start in starts if start <= epoch)
        expected = 0.001 + 0.5 * 0.009 * (1 + math.cos(math.pi * since * (resets + 1) / EPOCHS))
        assert schedule(epoch) == pytest.approx(expected, rel=1e-9)
    assert schedule(EPOCHS) == schedule(EPOCHS + 5) == pytest.approx(0.001, rel=1e-12)


@pytest.mark.parametrize("epochs", [49, 50, 51, 90])
def test_periods_begin_exactly_at_the_whole_epochs_they_fall_on(epochs):
    for periods in range(1, 20):
        sgdr = schedules.sgdr(0.001, 0.01, periods - 1, epochs)
        cyclic = schedules.cyclic(0.001, 0.01, periods, epochs)
        begins = [epoch for epoch in range(epochs) if epoch * periods % epochs == 0]
        assert [sgdr(epoch) for epoch in begins] == pytest.approx([0.01] * len(begins), rel=1e-12)
        assert [cyclic(epoch) for epoch in begins] == [0.001] * len(begins)


def test_sgdr_without_resets_is_the_cosine():
    np.testing.assert_allclose(
        rates(schedules.sgdr(0.0, 0.7, 0, EPOCHS)), rates(schedules.cosine(0.7, EPOCHS)), rtol=1e-12
    )


ALL = {
    "constant": schedules.constant(0.3),
    "multi_step": schedules.multi_step(0.1, (10, 30), 0.1),
    "step_decay": schedules.step_decay(0.1, 30, 0.5),
    "cosine": schedules.cosine(0.1, EPOCHS),
    "cyclic": schedules.cyclic(0.001, 0.01, 7, EPOCHS),
    "sgdr": schedules.sgdr(0.001, 0.01, 8, EPOCHS),
}


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_schedules_take_numbers_arrays_and_traced_values(schedule):
    epochs = np.arange(EPOCHS + 5)
    numbers = [schedule(int(epoch)) for epoch in epochs]
    assert all(type(rate) is float for rate in numbers)
    np.testing.assert_allclose(np.broadcast_to(schedule(epochs), epochs.shape), numbers, rtol=1e-5)
    mapped = jax.jit(jax.vmap(schedule))(epochs)
    np.testing.assert_allclose(np.broadcast_to(mapped, epochs.shape), numbers, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.cyclic(0.1, 0.01, 3, 50), "low=0.1 and high=0.01"),
        (lambda: schedules.sgdr(0.1, 0.01, 3, 50), "low=0.1 and high=0.01"),
        (lambda: schedules.cyclic(0.01, 0.1, 0, 50), "cycles must be at least 1, got 0"),
        (lambda: schedules.sgdr(0.01, 0.1, -1, 50), "resets must be at least 0, got -1"),
        (lambda: schedules.sgdr(0.01, 0.1, 1, 0), "epochs must be at least 1, got 0"),
        (lambda: schedules.cyclic(0.01, 0.1, 1, 0), "epochs must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("length", [1, 4, 2.5, 0])
def test_a_warm_up_rises_by_equal_steps_to_the_full_rate_and_stays(length):
    factor = schedules.warmup(length)
    expected = [min(1.0, (step + 1) / max(length, 1)) for step in range(8)]
    np.testing.assert_allclose([factor(step) for step in range(8)], expected, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(factor)(np.arange(8)), expected, rtol=1e-6)


def test_a_warm_up_is_optaxs_linear_schedule_without_its_zero():
    theirs = optax.schedules.linear_schedule(0.0, 1.0, 6)
    factor = schedules.warmup(6)
    np.testing.assert_allclose([factor(s) for s in range(9)], [theirs(s + 1) for s in range(9)], rtol=1e-6)


def test_a_cosine_by_step_with_a_floor_is_optaxs():
    theirs = optax.schedules.cosine_decay_schedule(1.0, decay_steps=12, alpha=0.2)
    schedule = schedules.by_step(schedules.floored(schedules.cosine(1.0, 3), 0.2), steps_per_epoch=4)
    np.testing.assert_allclose([schedule(s) for s in range(14)], [theirs(s) for s in range(14)], rtol=1e-6)


def test_a_schedule_by_step_agrees_with_that_by_epoch_where_epochs_begin():
    by_epoch = schedules.sgdr(0.1, 1.0, 1, 6)
    by_step = schedules.by_step(by_epoch, 7)
    np.testing.assert_allclose([by_step(7 * epoch) for epoch in range(7)], rates(by_epoch, 7), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: schedules.warmup(-1), "steps"),
        (lambda: schedules.floored(schedules.constant(1), 1.5), "lowest"),
        (lambda: schedules.by_step(schedules.constant(1), 0), "steps_per_epoch"),
    ],
)
def test_impossible_changes_within_an_epoch_are_refused_by_name(make, text):
    with pytest.raises(ValueError, match=text):
        make()
