"""How a score grows with the number of images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve(
    scores: Mapping[int, Sequence[float]],
    *,
    score_name: str = "accuracy",
    format: canvas.Format = "png",
) -> bytes:
    """A score over the number of images per class that were learned from, as a file.

    Args:
        scores: ``{images per class: score of each draw, in [0, 1]}``.
        score_name: of the scores.
        format: of the file.

    Examples:
        >>> from finetune_jax import figures
        >>> figures.learning_curve({5: [0.5, 0.6], 10: [0.7, 0.72]})[1:4]
        b'PNG'
    """
    return canvas.encode(draw_learning_curve(scores, score_name=score_name), format)


def draw_learning_curve(scores: Mapping[int, Sequence[float]], *, score_name: str = "accuracy") -> "Figure":
    """The figure of :func:`learning_curve`.

    Examples:
        >>> from finetune_jax import figures
        >>> figures.draw_learning_curve({5: [0.5, 0.6], 10: [0.7, 0.72]}).axes[0].get_xlabel()
        'training images per class'
    """
    figure, axis = canvas.new(1, 1, (4.6, 3.4))
    counts = sorted(scores)
    for count in counts:
        points = 100 * np.asarray(scores[count], np.float64)
        axis.plot([count] * len(points), points, "o", color=canvas.BLUE, alpha=0.35, mew=0, markersize=5)
    means = [100 * float(np.mean(scores[count])) for count in counts]
    axis.plot(counts, means, "o-", color=canvas.BLUE, markersize=5)
    for count, mean in zip(counts, means, strict=True):
        axis.annotate(
            f"{mean:.1f}", (count, mean), (0, 7), textcoords="offset points", ha="center", fontsize=8
        )
    axis.margins(x=0.1, y=0.2)
    if len(counts) > 1 and counts[0] > 0:
        axis.set_xscale("log")
    canvas.ticks_at(axis, counts)
    axis.set_xlabel("training images per class")
    axis.set_ylabel(f"{score_name}, %")
    axis.grid(alpha=0.25)
    return figure
