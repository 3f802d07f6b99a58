"""Whether probabilities can be taken at their word."""

from typing import TYPE_CHECKING

import numpy as np

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reliability(
    confidence: np.ndarray,
    accuracy: np.ndarray,
    images: np.ndarray,
    *,
    before: tuple[np.ndarray, np.ndarray] | None = None,
    format: canvas.Format = "png",
) -> bytes:
    """Accuracy over confidence as a file, a reliability diagram.

    On the diagonal a network is right as often as its probabilities say; below it is too sure of itself.

    Args:
        confidence: ``[B]``, mean probability of the predicted class in each bin, NaN in an empty one.
        accuracy: ``[B]``, share of the bin's images that are right.
        images: ``[B]``, how many there are; bins with more have larger points.
        before: confidence and accuracy without the temperature, drawn in grey behind; None draws none.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> confidence, accuracy, images = np.array([0.3, 0.9]), np.array([0.4, 0.8]), np.array([10, 30])
        >>> figures.reliability(confidence, accuracy, images)[1:4]
        b'PNG'
    """
    return canvas.encode(draw_reliability(confidence, accuracy, images, before=before), format)


def draw_reliability(
    confidence: np.ndarray,
    accuracy: np.ndarray,
    images: np.ndarray,
    *,
    before: tuple[np.ndarray, np.ndarray] | None = None,
) -> "Figure":
    """The figure of :func:`reliability`.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> confidence, accuracy, images = np.array([0.3, 0.9]), np.array([0.4, 0.8]), np.array([10, 30])
        >>> figure = figures.draw_reliability(confidence, accuracy, images)
        >>> figure.axes[0].get_xlabel()
        'confidence, %'
    """
    figure, axis = canvas.new(1, 1, (3.8, 3.6))
    axis.plot([0, 100], [0, 100], ":", color=canvas.GREY, linewidth=1)
    if before is not None:
        there = ~np.isnan(before[0])
        axis.plot(
            100 * before[0][there],
            100 * before[1][there],
            "--o",
            color=canvas.GREY,
            linewidth=1,
            markersize=3,
            label="without temperature",
        )
        axis.legend(frameon=False, fontsize=7, loc="upper left")
    known = images > 0
    x, y = 100 * confidence[known], 100 * accuracy[known]
    axis.plot(x, y, "-", color=canvas.BLUE, linewidth=1)
    axis.scatter(
        x, y, s=15 + 150 * images[known] / max(1, images.max()), color=canvas.BLUE, alpha=0.8, zorder=3
    )
    for place, height, count in zip(x, y, images[known], strict=True):
        axis.annotate(
            str(count), (place, height), (0, -15), textcoords="offset points", ha="center", fontsize=7
        )
    axis.set_xlim(0, 104)
    axis.set_ylim(-6, 106)
    axis.set_xlabel("confidence, %")
    axis.set_ylabel("accuracy, %")
    axis.grid(alpha=0.25)
    return figure
