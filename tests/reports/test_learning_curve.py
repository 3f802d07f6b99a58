"""The figure of a score by the number of images."""

import numpy as np

from finetune_jax import figures


def test_the_learning_curve_has_every_draw_and_goes_through_the_means_in_the_order_of_the_counts() -> None:
    axis = figures.draw_learning_curve({10: [0.7, 0.8], 5: [0.4, 0.5]}).axes[0]
    (mean,) = [line for line in axis.lines if line.get_linestyle() == "-"]
    np.testing.assert_allclose(mean.get_xdata(), [5, 10])
    np.testing.assert_allclose(mean.get_ydata(), [45, 75])
    points = {tuple(line.get_ydata()) for line in axis.lines if line is not mean}
    assert points == {(70.0, 80.0), (40.0, 50.0)}
    assert [text.get_text() for text in axis.texts] == ["45.0", "75.0"]
