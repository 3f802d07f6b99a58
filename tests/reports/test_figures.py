"""Figures of images, scores and errors, and what all figures keep: bytes, and pyplot alone."""

import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
from figure_checks import ACCEPTED, TRIALS, descending, lines_of_points, texts
from matplotlib.colors import to_hex
from PIL import Image

from finetune_jax.reports import figures
from finetune_jax.reports.figures import (
    activation_maps,
    alpha_beta,
    canvas,
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
