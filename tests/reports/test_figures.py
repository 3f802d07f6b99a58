"""What the figures show, read from matplotlib's own objects, and the PNG files they become."""

import io
import itertools
import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from finetune_jax.reports import figures
from finetune_jax.reports.figures import (
    activation_maps,
    alpha_beta,
    block_variations,
    canvas,
    domain_similarities,
    hyperparameter_curves,
    method_comparison,
    neighbours,
)

RNG = np.random.default_rng(0)
PHOTOS = RNG.integers(0, 256, size=(6, 8, 12, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def no_warnings():
    """Matplotlib warns of glyphs it lacks, axes that do not fit and scales that show nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def lines_of_points(axis, *, marker):
    """Drawn points of one marker, as ``[(face, x, y)]``, one per line that has any."""
    return [
        (to_hex(line.get_markerfacecolor()), line.get_xdata(), line.get_ydata())
        for line in axis.lines
        if line.get_marker() == marker and len(line.get_xdata())
    ]


def curves(axis):
    return [line for line in axis.lines if line.get_linestyle() == "-"]


def texts(axis):
    return [text.get_text() for text in axis.texts]


def descending(epochs, blocks, spread):
    return 1e-6 * spread ** -np.linspace(0, 1, blocks) * np.linspace(1, 0.5, epochs)[:, None]


# Similarity to a source


def test_known_rates_are_points_and_recommended_ranges_bars():
    references = {"dogs": (0.86, 0.001), "cars": (0.845, 0.5)}
    axis = domain_similarities._draw_similarities(references, {"mine": (0.85, 0.1, 1.0)}, "Table 4").axes[0]
    points = [(x[0], y[0]) for _, x, y in lines_of_points(axis, marker="o")]
    assert points == [(0.86, 0.001), (0.845, 0.5)]
    assert texts(axis) == ["dogs", "cars"]
    (bar,) = curves(axis)
    assert (list(bar.get_xdata()), list(bar.get_ydata())) == ([0.85, 0.85], [0.1, 1.0])
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["mine"]
    assert axis.get_yscale() == "log"


# Variations over epochs


@pytest.mark.parametrize("blocks", [1, 2, 12, 16, 33, 50])
def test_every_block_has_its_line_and_a_step_of_the_colour_bar(blocks):
    values = descending(5, blocks, 3.0)
    figure = block_variations._draw_variations(values, 1)
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
    figure = block_variations._draw_variations(descending(3, 33, 3.0), 1)
    rgb = np.array([line.get_color()[:3] for line in curves(figure.axes[0])])
    luminance = rgb @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
    assert luminance[-1] < 0.85  # still to be seen on white


@pytest.mark.parametrize(("spread", "scale"), [(3.0, "linear"), (1000.0, "log")])
def test_the_axis_is_logarithmic_where_the_range_asks_for_it(spread, scale):
    values = descending(4, 12, spread)
    figure = block_variations._draw_variations(values, 1)
    assert figure.axes[0].get_yscale() == scale
    # One block that never moved does not make a range of its own.
    values[:, 3] = 0
    assert block_variations._draw_variations(values, 1).axes[0].get_yscale() == scale


@pytest.mark.parametrize("spread", [3.0, 1000.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_leave_the_axis_as_it_is(spread, bad):
    values = descending(5, 12, spread)
    limits = block_variations._draw_variations(values, 1).axes[0].get_ylim()
    values[2, 4] = bad
    figure = block_variations._draw_variations(values, 1)
    assert figure.axes[0].get_ylim() == limits
    np.testing.assert_array_equal(curves(figure.axes[0])[4].get_xdata(), [1, 2, 4, 5])
    canvas.png(figure)


def test_nothing_but_diverged_epochs_is_still_a_figure():
    figure = block_variations._draw_variations(np.full((3, 4), np.nan), 7)
    assert figure.axes[0].get_xlim() == (6.5, 9.5)
    canvas.png(figure)


def test_epochs_are_whole_numbers_even_if_there_is_one():
    figure = block_variations._draw_variations(descending(1, 4, 3.0), 3)
    canvas.png(figure)
    low, high = figure.axes[0].get_xlim()
    ticks = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
    assert ticks == [3]


# Trials

TRIALS = [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1)]
ACCEPTED = np.array([False, False, True, True, True])


def draw_trials(variations, rates=None):
    rates = np.full(variations.shape, 1e-3) if rates is None else rates
    return block_variations._draw_trials(variations, rates, TRIALS, ACCEPTED)


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
    canvas.png(figure)


def test_without_rejected_trials_the_legend_says_nothing_of_them():
    figure = block_variations._draw_trials(
        descending(2, 3, 3.0), descending(2, 3, 3.0), [(1, 1), (2, 1)], np.array([True, True])
    )
    assert legend(figure) == ["accepted"]
    assert not figure.axes[0].patches


def test_many_trials_have_labels_that_do_not_overlap():
    count = 230
    figure = block_variations._draw_trials(
        descending(count, 33, 3.0),
        descending(count, 33, 3.0),
        [(epoch, 1) for epoch in range(1, count + 1)],
        np.ones(count, bool),
    )
    canvas.png(figure)
    boxes = [label.get_window_extent() for label in figure.axes[1].get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))


# Grad-CAM


def test_heat_maps_cover_the_photographs_whatever_their_size():
    maps = {"block_01": RNG.uniform(size=(3, 8, 12)), "block_12": RNG.uniform(size=(3, 2, 3))}
    figure = activation_maps._draw_grad_cam_grid(PHOTOS[:3], maps, ["a", "b", "c"])
    axes = np.array(figure.axes[:9]).reshape(3, 3)
    assert [axis.get_title() for axis in axes[0]] == ["image", "block_01", "block_12"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["a", "b", "c"]
    for row in range(3):
        (photo,) = axes[row, 0].images
        np.testing.assert_array_equal(photo.get_array(), PHOTOS[row])
        for axis, values in zip(axes[row, 1:], maps.values(), strict=True):
            below, heat = axis.images
            np.testing.assert_array_equal(heat.get_array(), values[row])
            assert list(heat.get_extent()) == list(below.get_extent()) == [-0.5, 11.5, 7.5, -0.5]
            assert heat.get_clim() == (0, 1)  # colours mean the same in every cell


def test_where_a_map_is_zero_the_photograph_shows_through():
    figure = activation_maps._draw_grad_cam_grid(PHOTOS[:1], {"a": np.zeros((1, 2, 2))}, None)
    below, heat = figure.axes[1].images
    opacity = heat.get_cmap()(np.linspace(0, 1, 256))[:, 3]
    assert opacity[0] == 0
    assert (np.diff(opacity) > 0).all()
    grey = np.asarray(below.get_array())
    np.testing.assert_array_equal(grey[..., 0], PHOTOS[0].mean(2).astype(np.uint8))


def test_grey_photographs_of_one_channel_are_drawn():
    maps = {"a": np.ones((2, 2, 2))}
    figure = activation_maps._draw_grad_cam_grid(PHOTOS[:2, ..., :1], maps, None)
    assert figure.axes[0].images[0].get_array().shape == (8, 12, 3)
    canvas.png(figure)


# Retrieval


def test_right_neighbours_are_framed_green_with_a_tick_and_wrong_ones_red_with_a_cross():
    found = np.array([[1, 2, 3], [4, 5, 0]])
    similarities = np.array([[0.91234, 0.8, 0.7], [0.6, 0.5, -0.25]])
    correct = np.array([[True, False, True], [False, False, True]])
    figure = neighbours._draw_retrieval_strips(
        PHOTOS[:2], PHOTOS[found], similarities, correct, ["cat", "dog"], [["x", "y", "z"]] * 2
    )
    axes = np.array(figure.axes).reshape(2, 4)
    assert [axis.get_title() for axis in axes[0]] == ["query", "1", "2", "3"]
    for row in range(2):
        assert axes[row, 0].get_xlabel() == ["cat", "dog"][row]
        np.testing.assert_array_equal(axes[row, 0].images[0].get_array(), PHOTOS[row])
        for rank in range(3):
            axis, right = axes[row, rank + 1], correct[row, rank]
            np.testing.assert_array_equal(axis.images[0].get_array(), PHOTOS[found[row, rank]])
            frame = {to_hex(spine.get_edgecolor()) for spine in axis.spines.values()}
            assert len(frame) == 1
            red, green = (int(min(frame)[i : i + 2], 16) for i in (1, 3))
            assert (green > 2 * red) if right else (red > 2 * green)
            mark = "✓" if right else "✗"
            assert axis.get_xlabel() == f"{mark} {similarities[row, rank]:.3f}\n{'xyz'[rank]}"
    canvas.png(figure)  # warns of a mark that the font lacks


# α and β


def draw_alpha_beta(scores, unavailable):
    rows, columns = np.shape(scores)
    return alpha_beta._draw_alpha_beta_grid(
        np.array(scores), np.arange(1, rows + 1), np.arange(1, columns + 1) / 5, unavailable, "Recall@1"
    )


def cells(patches):
    return {(round(patch.get_y() + 0.5), round(patch.get_x() + 0.5)) for patch in patches}


def test_unavailable_cells_are_hatched_missing_ones_blank_and_the_best_has_a_frame():
    scores = [[0.5, 0.75, np.nan], [0.9, 0.625, 0.25]]
    unavailable = np.array([[False, False, False], [True, False, False]])
    axis = draw_alpha_beta(scores, unavailable).axes[0]
    hatched = [patch for patch in axis.patches if patch.get_hatch()]
    assert cells(hatched) == {(1, 0)}
    # 0.9 is unavailable, hence neither shown nor the best.
    assert cells(patch for patch in axis.patches if not patch.get_hatch()) == {(0, 1)}
    written = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axis.texts}
    assert written == {(0, 0): "0.5000", (0, 1): "0.7500", (1, 1): "0.6250", (1, 2): "0.2500"}
    colored = ~np.ma.getmaskarray(axis.images[0].get_array())
    np.testing.assert_array_equal(colored, [[True, True, False], [False, True, True]])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.2", "0.4", "0.6"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["1", "2"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("β", "α")


def test_numbers_in_cells_stand_out_from_their_ground():
    axis = draw_alpha_beta([np.linspace(60, 70, 12)], np.zeros((1, 12), bool)).axes[0]
    picture = axis.images[0]
    ground = picture.cmap(picture.norm(np.asarray(picture.get_array())))[0, :, :3] @ [0.2126, 0.7152, 0.0722]
    for text, luminance in zip(axis.texts, ground, strict=True):
        assert abs((text.get_color() == "white") - luminance) > 0.35
    assert texts(axis)[0] == "60.00"


@pytest.mark.parametrize("unavailable", [False, True])
def test_a_grid_without_any_score_is_drawn(unavailable):
    figure = draw_alpha_beta(np.full((2, 2), np.nan), np.full((2, 2), unavailable))
    assert len(figure.axes[0].patches) == 4 * unavailable
    canvas.png(figure)


# Methods

SCORES = {
    "accuracy": {"standard": [0.5, 0.7, 0.6], "AutoLR": [0.8, np.nan, 0.6], "lost": [np.nan]},
    "seconds": {"standard": [10.0], "AutoLR": [20.0, 30.0]},
}


def test_every_seed_is_a_point_and_the_mean_a_line():
    accuracy, seconds = method_comparison._draw_compare_methods(SCORES).axes
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["standard", "AutoLR", "lost"]
    assert accuracy.get_ylim()[0] > accuracy.get_ylim()[1]  # the first on top

    def points(axis):
        return [(list(x), set(y)) for _, x, y in lines_of_points(axis, marker="o")]

    def means(axis):
        return [(x[0], y[0]) for _, x, y in lines_of_points(axis, marker="|")]

    assert points(accuracy) == [([0.5, 0.7, 0.6], {0}), ([0.8, 0.6], {1})]
    assert points(seconds) == [([10.0], {0}), ([20.0, 30.0], {1})]
    np.testing.assert_allclose(means(accuracy), [(0.6, 0), (0.7, 1)])
    np.testing.assert_allclose(means(seconds), [(10, 0), (25, 1)])
    # A seed that failed is counted, a method without a number has none.
    assert texts(accuracy) == ["0.6000", "0.7000 (2 of 3)", "– (0 of 1)"]
    assert texts(seconds) == ["10.00", "25.00", "–"]


# error_curves


def test_a_curve_goes_through_the_lowest_error_at_each_value_and_zero_stands_apart():
    panels = {
        "η": {"m = 0": [(0.1, 20.0), (0.01, 30.0), (0.1, 25.0)], "m = 0.9": [(0.01, 22.0)]},
        "λ": {"all": [(0.0, 21.0), (0.001, 20.0)]},
    }
    figure = hyperparameter_curves._draw_error_curves(panels, "error, %", "lowest")
    eta, decay = figure.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in eta.lines}
    assert drawn["m = 0"] == [[0.01, 30], [0.1, 20]]
    assert drawn["m = 0.9"] == [[0.01, 22]]
    assert drawn["lowest"] == [[0.01, 22], [0.1, 20]]
    dots = [line.get_xydata().tolist() for line in eta.lines if line.get_linestyle() == "None"]
    assert dots[0] == [[0.1, 20], [0.01, 30], [0.1, 25]]
    assert eta.get_xscale() == "log"
    assert eta.get_ylabel() == "error, %"
    drawn = {line.get_label(): line.get_xydata().tolist() for line in decay.lines}
    at_zero, gap, other = drawn["all"]
    assert at_zero == [pytest.approx(0.0001), 21]
    assert np.isnan(gap[1])
    assert other == [0.001, 20]
    assert "lowest" not in drawn  # it would be the only curve again
    assert decay.get_xticks() == pytest.approx([0.0001, 0.001])
    assert [label.get_text() for label in decay.get_xticklabels()] == ["0", "0.001"]


# PNG

EVERY_FIGURE = {
    "variations": lambda: figures.variations(descending(4, 12, 3.0)),
    "trials": lambda: figures.trials(descending(5, 6, 3.0), descending(5, 6, 3.0), TRIALS, ACCEPTED),
    "grad_cam_grid": lambda: figures.grad_cam_grid(PHOTOS[:1], {"a": np.ones((1, 2, 3))}),
    "retrieval_strips": lambda: figures.retrieval_strips(
        PHOTOS[:1], PHOTOS[None, :2], np.ones((1, 2)), np.array([[True, False]])
    ),
    "alpha_beta_grid": lambda: figures.alpha_beta_grid(
        np.ones((2, 1)), [1, 2], [0.4], np.array([[True], [False]])
    ),
    "compare_methods": lambda: figures.compare_methods(SCORES),
    "error_curves": lambda: figures.error_curves({"η": {"m = 0": [(0.1, 20.0), (0.01, 30.0)]}}),
    "policy_usage": lambda: figures.policy_usage({"cats": np.array([0.1, 0.9])}, ["block_01", "block_02"]),
    "similarities": lambda: figures.similarities({"dogs": (0.86, 0.001)}, {"mine": (0.85, 0.1, 1.0)}),
    "policy_counts": lambda: figures.policy_counts({"cats": np.array([3, 2, 1])}),
    "training_curves": lambda: figures.training_curves([{"epoch": "1", "train_loss": "2.0"}], 1),
    "confusion": lambda: figures.confusion(np.eye(2, dtype=int), ["a", "b"]),
}


def test_every_public_figure_is_tried_here():
    assert set(EVERY_FIGURE) == set(figures.__all__)


@pytest.mark.parametrize("name", EVERY_FIGURE)
def test_the_same_data_give_the_same_png(name):
    first, second = EVERY_FIGURE[name](), EVERY_FIGURE[name]()
    assert first == second
    with Image.open(io.BytesIO(first)) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 100
        assert "Software" not in picture.info  # the version of matplotlib


def test_figures_leave_pyplot_alone():
    """Pyplot would keep every figure in memory and look for a display."""
    code = (
        "import sys; import numpy as np; from finetune_jax import figures;"
        "assert 'matplotlib' not in sys.modules;"  # a third of a second that a run needs only at its end
        "figures.variations(np.ones((2, 2)));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
