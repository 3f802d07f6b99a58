"""Figures of images, scores and errors, and what all figures keep: bytes, and pyplot alone."""

import io
import itertools
import subprocess
import sys
import warnings

import numpy as np
import pytest
from figure_checks import ACCEPTED, TRIALS, descending, lines_of_points, texts
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from finetune_jax.reports import figures
from finetune_jax.reports.figures import canvas

RNG = np.random.default_rng(0)
PHOTOS = RNG.integers(0, 256, size=(6, 8, 12, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def no_warnings():
    """Matplotlib warns of glyphs it lacks, axes that do not fit and scales that show nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# Grad-CAM


def test_heat_maps_cover_the_photographs_whatever_their_size():
    maps = {"block_01": RNG.uniform(size=(3, 8, 12)), "block_12": RNG.uniform(size=(3, 2, 3))}
    figure = figures.draw_grad_cam_grid(PHOTOS[:3], maps, row_names=["a", "b", "c"])
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


def test_a_map_of_a_part_lies_on_that_part_of_a_photograph_of_any_size():
    photos = [PHOTOS[0], np.zeros((40, 20, 3), np.uint8)]
    maps = {"a": np.ones((2, 2, 2))}
    figure = figures.draw_grad_cam_grid(photos, maps, parts=[(0, 0, 1, 1), (0.25, 0.5, 0.75, 1)])
    whole, part = (figure.axes[i].images[1] for i in (1, 3))
    assert list(whole.get_extent()) == [-0.5, 11.5, 7.5, -0.5]
    assert list(part.get_extent()) == [4.5, 14.5, 39.5, 19.5]
    assert figure.axes[3].get_xlim() == (-0.5, 19.5)  # the rest of the photograph is still shown


def test_heat_over_a_photograph_is_grey_outside_of_the_part_and_where_there_is_none():
    photo = PHOTOS[0]
    over = figures.heat_over(photo, np.array([[0.0, 1.0]]), (0.5, 0.0, 1.0, 1.0)).astype(int)
    grey = np.repeat(photo.mean(2, keepdims=True), 3, 2).round()
    np.testing.assert_array_equal(over[:, :6], grey[:, :6])
    np.testing.assert_array_equal(over[:, 6], grey[:, 6])  # bilinear, so the first column is 0
    assert (np.abs(over[:, -1] - grey[:, -1]).max(1) > 20).all()


def test_where_a_map_is_zero_the_photograph_shows_through():
    figure = figures.draw_grad_cam_grid(PHOTOS[:1], {"a": np.zeros((1, 2, 2))})
    below, heat = figure.axes[1].images
    opacity = heat.get_cmap()(np.linspace(0, 1, 256))[:, 3]
    assert opacity[0] == 0
    assert (np.diff(opacity) > 0).all()
    grey = np.asarray(below.get_array())
    np.testing.assert_array_equal(grey[..., 0], PHOTOS[0].mean(2).astype(np.uint8))


def test_grey_photographs_of_one_channel_are_drawn():
    maps = {"a": np.ones((2, 2, 2))}
    figure = figures.draw_grad_cam_grid(PHOTOS[:2, ..., :1], maps)
    assert figure.axes[0].images[0].get_array().shape == (8, 12, 3)
    figures.encode(figure)


# Retrieval


def seen_by_a_deuteranope(color):
    """Machado et al. (2009), severity 1, in linear RGB."""
    matrix = [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
    return np.clip(matrix @ np.array(to_rgb(color)) ** 2.2, 0, 1) ** (1 / 2.2)


def test_the_colours_of_right_and_wrong_differ_for_a_deuteranope():
    right, wrong = map(seen_by_a_deuteranope, (canvas.RIGHT, canvas.WRONG))
    assert np.linalg.norm(right - wrong) > 0.5
    # The green and red of many figures do not.
    assert np.linalg.norm(seen_by_a_deuteranope("#1a7f37") - seen_by_a_deuteranope("#a04000")) < 0.25


def test_right_neighbours_have_a_solid_frame_and_a_tick_and_wrong_ones_a_dashed_frame_and_a_cross():
    found = np.array([[1, 2, 3], [4, 5, 0]])
    similarities = np.array([[0.91234, 0.8, 0.7], [0.6, 0.5, -0.25]])
    correct = np.array([[True, False, True], [False, False, True]])
    figure = figures.draw_retrieval_strips(
        PHOTOS[:2],
        PHOTOS[found],
        similarities,
        correct,
        query_names=["cat", "dog"],
        neighbour_names=[["x", "y", "z"]] * 2,
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
            assert frame == {(canvas.RIGHT if right else canvas.WRONG).lower()}
            assert {spine.get_linestyle() == "-" for spine in axis.spines.values()} == {right}
            mark = "✓" if right else "✗"
            assert axis.get_xlabel() == f"{mark} {similarities[row, rank]:.3f}\n{'xyz'[rank]}"
    figures.encode(figure)  # warns of a mark that the font lacks


# α and β


def draw_alpha_beta(scores, unavailable):
    rows, columns = np.shape(scores)
    return figures.draw_alpha_beta_grid(
        np.array(scores),
        np.arange(1, rows + 1),
        np.arange(1, columns + 1) / 5,
        unavailable,
        score_name="Recall@1",
    )


def cells(patches):
    return {(round(patch.get_y() + 0.5), round(patch.get_x() + 0.5)) for patch in patches}


def test_unavailable_cells_are_hatched_missing_ones_blank_and_the_only_highest_has_a_frame():
    scores = [[0.5, 0.75, np.nan], [0.9, 0.625, 0.25]]
    unavailable = np.array([[False, False, False], [True, False, False]])
    axis = draw_alpha_beta(scores, unavailable).axes[0]
    hatched = [patch for patch in axis.patches if patch.get_hatch()]
    assert cells(hatched) == {(1, 0)}
    # 0.9 is unavailable, hence neither shown nor the best.
    assert cells(patch for patch in axis.patches if not patch.get_hatch()) == {(0, 1)}
    written = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axis.texts}
    assert written == {(0, 0): "50.00", (0, 1): "75.00", (1, 1): "62.50", (1, 2): "25.00"}
    colored = ~np.ma.getmaskarray(axis.images[0].get_array())
    np.testing.assert_array_equal(colored, [[True, True, False], [False, True, True]])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.2", "0.4", "0.6"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["1", "2"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("β", "α")


def test_of_several_equal_cells_none_has_a_frame():
    axis = draw_alpha_beta([[0.5, 0.75], [0.75, 0.25]], np.zeros((2, 2), bool)).axes[0]
    assert not axis.patches
    equal = draw_alpha_beta(np.full((2, 2), 0.1944), np.zeros((2, 2), bool))
    low, high = equal.axes[0].images[0].get_clim()
    assert high - low >= 1  # a scale of one point and more does not show rounding
    figures.encode(equal)


def test_numbers_in_cells_stand_out_from_their_ground():
    axis = draw_alpha_beta([np.linspace(0.6, 0.7, 12)], np.zeros((1, 12), bool)).axes[0]
    picture = axis.images[0]
    ground = picture.cmap(picture.norm(np.asarray(picture.get_array())))[0, :, :3] @ [0.2126, 0.7152, 0.0722]
    for text, luminance in zip(axis.texts, ground, strict=True):
        assert abs((text.get_color() == canvas.ON_DARK) - luminance) > 0.35
    assert texts(axis)[0] == "60.00"


@pytest.mark.parametrize("unavailable", [False, True])
def test_a_grid_without_any_score_is_drawn(unavailable):
    figure = draw_alpha_beta(np.full((2, 2), np.nan), np.full((2, 2), unavailable))
    assert len(figure.axes[0].patches) == 4 * unavailable
    figures.encode(figure)


# Methods


SCORES = {
    "accuracy": {"standard": [0.5, 0.7, 0.6], "AutoLR": [0.8, np.nan, 0.6], "lost": [np.nan]},
    "seconds": {"standard": [10.0], "AutoLR": [20.0, 30.0]},
}


def test_every_seed_is_a_point_and_the_mean_a_line():
    accuracy, seconds = figures.draw_compare_methods(SCORES).axes
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["standard", "AutoLR", "lost"]
    assert accuracy.get_ylim()[0] > accuracy.get_ylim()[1]  # the first on top

    def points(axis):
        return [(list(x), set(y)) for _, x, y in lines_of_points(axis, marker="o")]

    def means(axis):
        return [(x[0], y[0]) for _, x, y in lines_of_points(axis, marker="|")]

    assert points(accuracy) == [([0.5, 0.7, 0.6], {0}), ([0.8, 0.6], {1})]
    assert points(seconds) == [([10.0], {0}), ([20.0, 30.0], {1})]
    np.testing.assert_allclose(means(accuracy), [(0.6, 0), (0.7, 1)])
    assert means(seconds) == [(25, 1)]  # one seed is its mean
    # A seed that failed is counted, a method without a number has none.
    assert texts(accuracy) == ["0.6", "0.7 (2 of 3)", "– (0 of 1)"]
    assert texts(seconds) == ["10", "25", "–"]


def test_intervals_are_lines_behind_the_points_and_percent_has_two_digits():
    scores = {"accuracy": {"standard": [53.333]}}
    figure = figures.draw_compare_methods(
        scores, intervals={"accuracy": {"standard": (43.1, 63.29)}}, unit="%"
    )
    (axis,) = figure.axes
    (line,) = [line for line in axis.lines if line.get_linestyle() == "-"]
    assert list(line.get_xdata()) == [43.1, 63.29]
    assert texts(axis) == ["53.33 %"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["one seed", "95 % interval of the test images"]


# error_curves


def test_a_curve_goes_through_the_lowest_error_at_each_value_and_zero_stands_apart():
    panels = {
        "η": {"m = 0": [(0.1, 20.0), (0.01, 30.0), (0.1, 25.0)], "m = 0.9": [(0.01, 22.0)]},
        "λ": {"all": [(0.0, 21.0), (0.001, 20.0)]},
    }
    figure = figures.draw_error_curves(panels, error_name="error, %", best="lowest")
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
    assert [label.get_text() for label in eta.get_xticklabels()] == ["0.01", "0.1"]
    assert [text.get_text() for text in eta.get_legend().get_texts()][-1] == "single trials"
    assert [label.get_text() for label in decay.get_xticklabels()] == ["0", "0.001"]


def test_trials_of_different_settings_are_not_joined():
    axis = figures.draw_error_curves({"λ": {"all rates": [(0.1, 20.0), (0.01, 30.0)]}}, joined=False).axes[0]
    assert [line.get_linestyle() for line in axis.lines] == ["None"]


@pytest.mark.parametrize(
    "values",
    [(0.003, 0.004, 0.005, 0.01, 0.03), tuple(np.geomspace(1e-4, 1, 40)), (0.01,), (1e-5, 1e-4, 0.1)],
)
def test_ticks_are_values_that_were_tried_and_do_not_overlap(values):
    figure = figures.draw_error_curves({"η": {"m": [(value, 20.0) for value in values]}})
    figures.encode(figure)
    axis = figure.axes[0]
    assert set(axis.get_xticks()) <= {*values}
    assert axis.get_xticks()[0] == values[0]
    boxes = [label.get_window_extent() for label in axis.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


# Confusion


@pytest.mark.parametrize("count", [2, 10, 31, 60, 200, 1000])
def test_every_confusion_is_named_under_the_pointer(count):
    names = [f"class {place}" for place in range(count)]
    matrix = np.diag(np.full(count, 3))
    matrix[0, count - 1] = 2
    figure = figures.draw_confusion(matrix, names)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[0] == "class 0"
    assert (labels == names) == (count <= 60)
    tips = [patch.get_gid() for patch in figure.axes[0].patches]
    assert tips[0] == f"title:class 0, taken for class {count - 1}: 2 of 5"
    assert f"title:class 1, recognised: 3 of {5 if count == 1 else 3}" in tips
    counts = texts(figure.axes[0])
    assert len(counts) == (count + 1 if count <= 30 else 0)
    figures.encode(figure)


# Reliability, pruning


def test_bins_without_images_are_no_points_of_the_reliability_diagram():
    confidence, accuracy = np.array([np.nan, 0.5, 0.9]), np.array([np.nan, 0.25, 1.0])
    axis = figures.draw_reliability(confidence, accuracy, np.array([0, 8, 2])).axes[0]
    assert axis.collections[0].get_offsets().tolist() == [[50.0, 25.0], [90.0, 100.0]]
    assert texts(axis) == ["8", "2"]


def test_the_pruning_curve_has_every_seed_its_mean_and_what_is_left():
    figure = figures.draw_pruning_curve(
        [0, 1], [[0.5, 0.7], [0.6, 0.8]], {"parameters": [200, 150]}, chosen=1, score_name="accuracy"
    )
    left, right = figure.axes
    (mean,) = [line for line in left.lines if line.get_linestyle() == "-"]
    np.testing.assert_allclose(mean.get_ydata(), [60, 70])
    assert texts(left) == ["60.00", "70.00"]
    np.testing.assert_allclose(right.lines[0].get_ydata(), [100, 75])


# Files


EVERY_FIGURE = {
    "variations": lambda **more: figures.variations(descending(4, 12, 3.0), **more),
    "trials": lambda **more: figures.trials(
        descending(5, 6, 3.0), descending(5, 6, 3.0), TRIALS, ACCEPTED, **more
    ),
    "grad_cam_grid": lambda **more: figures.grad_cam_grid(PHOTOS[:1], {"a": np.ones((1, 2, 3))}, **more),
    "retrieval_strips": lambda **more: figures.retrieval_strips(
        PHOTOS[:1], PHOTOS[None, :2], np.ones((1, 2)), np.array([[True, False]]), **more
    ),
    "alpha_beta_grid": lambda **more: figures.alpha_beta_grid(
        np.ones((2, 1)), [1, 2], [0.4], np.array([[True], [False]]), **more
    ),
    "compare_methods": lambda **more: figures.compare_methods(SCORES, **more),
    "error_curves": lambda **more: figures.error_curves(
        {"η": {"m = 0": [(0.1, 20.0), (0.01, 30.0)]}}, **more
    ),
    "policy_usage": lambda **more: figures.policy_usage(
        {"cats": np.array([0.1, 0.9])}, ["block_01", "block_02"], **more
    ),
    "similarities": lambda **more: figures.similarities(
        {"dogs": (0.86, 0.001)}, {"mine": (0.85, 0.1, 1.0)}, **more
    ),
    "policy_counts": lambda **more: figures.policy_counts({"cats": np.array([3, 2, 1])}, **more),
    "training_curves": lambda **more: figures.training_curves(
        [{"epoch": "1", "train_loss": "2.0"}], 1, **more
    ),
    "confusion": lambda **more: figures.confusion(np.eye(2, dtype=int), ["a", "b"], **more),
    "reliability": lambda **more: figures.reliability(
        np.array([0.5]), np.array([1.0]), np.array([3]), **more
    ),
    "scatter": lambda **more: figures.scatter(np.array([1.0, 2.0]), np.array([1.0, 3.0]), "age", **more),
    "pruning_curve": lambda **more: figures.pruning_curve([0, 1], [[0.5], [0.6]], {"M": [2, 1]}, **more),
    "learning_curve": lambda **more: figures.learning_curve({5: [0.5, 0.6], 10: [0.7]}, **more),
    "interpolation_curve": lambda **more: figures.interpolation_curve(
        [0, 1], {"validation": [0.5, 0.6]}, 1, **more
    ),
}


def test_every_public_figure_is_tried_here():
    drawn = {name for name in figures.__all__ if name.startswith("draw_")}
    assert drawn == {f"draw_{name}" for name in EVERY_FIGURE}
    assert set(figures.__all__) == {*EVERY_FIGURE, *drawn, "FORMATS", "Format", "encode", "heat_over"}


@pytest.mark.parametrize("name", EVERY_FIGURE)
def test_the_same_data_give_the_same_png(name):
    first, second = EVERY_FIGURE[name](), EVERY_FIGURE[name]()
    assert first == second
    with Image.open(io.BytesIO(first)) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 100
        assert "Software" not in picture.info  # the version of matplotlib


@pytest.mark.parametrize(("format", "begin"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
@pytest.mark.parametrize("name", EVERY_FIGURE)
def test_every_figure_is_made_for_print_too(name, format, begin):
    first = EVERY_FIGURE[name](format=format)
    assert first.startswith(begin)
    assert first == EVERY_FIGURE[name](format=format)


def test_figures_leave_pyplot_alone():
    """Pyplot would keep every figure in memory and look for a display."""
    code = (
        "import sys; import numpy as np; from finetune_jax import figures;"
        "assert 'matplotlib' not in sys.modules;"  # a third of a second that a run needs only at its end
        "figures.variations(np.ones((2, 2)));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
