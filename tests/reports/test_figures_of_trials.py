"""Figures of similarity, variations and trials: what is drawn, where and in which colours."""

import itertools
import warnings

import numpy as np
import pytest
from figure_checks import ACCEPTED, TRIALS, descending, lines_of_points, texts

from finetune_jax.reports import figures


@pytest.fixture(autouse=True)
def no_warnings():
    """Matplotlib warns of glyphs it lacks, axes that do not fit and scales that show nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def curves(axis):
    return [line for line in axis.lines if line.get_linestyle() == "-"]


# Similarity to a source


def test_known_rates_are_points_and_recommended_ranges_bars():
    references = {"dogs": (0.86, 0.001), "cars": (0.845, 0.5)}
    axis = figures.draw_similarities(references, {"mine": (0.85, 0.1, 1.0)}, title="Table 4").axes[0]
    points = [(x[0], y[0]) for _, x, y in lines_of_points(axis, marker="o")]
    assert points == [(0.86, 0.001), (0.845, 0.5)]
    assert texts(axis) == ["dogs", "cars"]
    (bar,) = curves(axis)
    assert (list(bar.get_xdata()), list(bar.get_ydata())) == ([0.85, 0.85], [0.1, 1.0])
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["mine"]
    assert axis.get_yscale() == "log"


def test_a_guess_is_no_recommendation():
    axis = figures.draw_similarities({}, {"mine": (0.85, 0.1, 1.0)}, recommended=False).axes[0]
    (line,) = axis.lines
    assert list(line.get_xdata()) == [0.85, 0.85]
    assert line.get_color() == figures.canvas.GREY
    assert axis.get_legend().get_title().get_text() == "no recommendation for"


# Variations over epochs


@pytest.mark.parametrize("blocks", [1, 2, 12, 16, 33, 50])
def test_every_block_has_its_line_and_a_step_of_the_colour_bar(blocks):
    values = descending(5, blocks, 3.0)
    figure = figures.draw_variations(values)
    axis, bar = figure.axes
    drawn = curves(axis)
    assert len(drawn) == blocks
    for line, expected in zip(drawn, values.T, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4, 5])
        np.testing.assert_array_equal(line.get_ydata(), expected)
    steps = bar.collections[-1].get_array()
    assert len(np.unique(steps)) == blocks
    named = [int(label.get_text()) for label in bar.get_yticklabels()]
    assert named[-1] == blocks  # the highest is always named
    assert len(named) <= 17
    if blocks <= 16:
        assert named == list(range(1, blocks + 1))


def test_colours_become_lighter_from_low_to_high_blocks():
    figure = figures.draw_variations(descending(3, 33, 3.0))
    rgb = np.array([line.get_color()[:3] for line in curves(figure.axes[0])])
    luminance = rgb @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
    assert luminance[-1] < 0.85  # still to be seen on white


@pytest.mark.parametrize(("spread", "scale"), [(3.0, "linear"), (1000.0, "log")])
def test_the_axis_is_logarithmic_where_the_range_asks_for_it(spread, scale):
    values = descending(4, 12, spread)
    figure = figures.draw_variations(values)
    assert figure.axes[0].get_yscale() == scale
    # One block that never moved does not make a range of its own.
    values[:, 3] = 0
    assert figures.draw_variations(values).axes[0].get_yscale() == scale


@pytest.mark.parametrize("spread", [3.0, 1000.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_leave_the_axis_as_it_is(spread, bad):
    values = descending(5, 12, spread)
    limits = figures.draw_variations(values).axes[0].get_ylim()
    values[2, 4] = bad
    figure = figures.draw_variations(values)
    assert figure.axes[0].get_ylim() == limits
    np.testing.assert_array_equal(curves(figure.axes[0])[4].get_xdata(), [1, 2, 4, 5])
    figures.encode(figure)


def test_nothing_but_diverged_epochs_is_still_a_figure():
    figure = figures.draw_variations(np.full((3, 4), np.nan), first_epoch=7)
    assert figure.axes[0].get_xlim() == (6.5, 9.5)
    figures.encode(figure)


def test_epochs_are_whole_numbers_even_if_there_is_one():
    figure = figures.draw_variations(descending(1, 4, 3.0), first_epoch=3)
    figures.encode(figure)
    low, high = figure.axes[0].get_xlim()
    ticks = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
    assert ticks == [3]


def draw_trials(variations, rates=None):
    rates = np.full(variations.shape, 1e-3) if rates is None else rates
    return figures.draw_trials(variations, rates, TRIALS, ACCEPTED)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_trials_stand_in_sequence_and_rejected_ones_are_hollow_on_a_grey_ground():
    variations, rates = descending(5, 6, 3.0), descending(5, 6, 2.0)
    figure = draw_trials(variations, rates)
    upper, lower = figure.axes[:2]
    assert [label.get_text() for label in lower.get_xticklabels()] == ["1-1", "1-2", "1-3", "2-1", "3-1"]
    assert legend(figure) == ["accepted", "rejected"]
    for axis, values in ((upper, variations), (lower, rates)):
        assert len(curves(axis)) == 6
        for line, expected in zip(curves(axis), values.T, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), expected)
        points = lines_of_points(axis, marker="o")
        hollow = [(x, y) for face, x, y in points if face == "#ffffff"]
        filled = [(x, y) for face, x, y in points if face != "#ffffff"]
        assert len(hollow) == len(filled) == 6
        for block in range(6):
            np.testing.assert_array_equal(hollow[block], ([0, 1], values[:2, block]))
            np.testing.assert_array_equal(filled[block], ([2, 3, 4], values[2:, block]))
        assert [(span.get_x(), span.get_x() + span.get_width()) for span in axis.patches] == [
            (-0.5, 0.5),
            (0.5, 1.5),
        ]


def test_a_diverged_trial_is_marked_and_does_not_break_the_axes():
    variations = descending(5, 6, 3.0)
    limits = [axis.get_ylim() for axis in draw_trials(variations).axes[:2]]
    # The second trial has no largest or smallest value, so without it the axes are the same.
    variations[1] = np.nan
    variations[1, 3] = np.inf
    figure = draw_trials(variations)
    assert [axis.get_ylim() for axis in figure.axes[:2]] == limits
    assert legend(figure) == ["accepted", "rejected", "diverged"]
    ((_, x, y),) = lines_of_points(figure.axes[0], marker="X")
    assert list(x) == [1]
    assert 0.9 < y[0] < 1  # of the height of the axis
    assert not lines_of_points(figure.axes[1], marker="X")
    figures.encode(figure)


def test_without_rejected_trials_the_legend_says_nothing_of_them():
    figure = figures.draw_trials(
        descending(2, 3, 3.0), descending(2, 3, 3.0), [(1, 1), (2, 1)], np.array([True, True])
    )
    assert legend(figure) == ["accepted"]
    assert not figure.axes[0].patches


def test_many_trials_have_labels_that_do_not_overlap():
    count = 230
    figure = figures.draw_trials(
        descending(count, 33, 3.0),
        descending(count, 33, 3.0),
        [(epoch, 1) for epoch in range(1, count + 1)],
        np.ones(count, bool),
    )
    figures.encode(figure)
    boxes = [label.get_window_extent() for label in figure.axes[1].get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))
