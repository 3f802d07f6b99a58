"""Scores of networks between two others."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"validation": canvas.BLUE, "test": canvas.VERMILLION}


def interpolation_curve(
    alphas: Sequence[float],
    scores: Mapping[str, Sequence[float]],
    chosen: int,
    *,
    score: str = "accuracy, %",
    factor: float = 100,
    format: canvas.Format = "png",
) -> bytes:
    """Scores over the share of the trained weights, as a file.

    Args:
        alphas: shares, in any order.
        scores: ``{evaluation set: score at each share}``.
        chosen: place of the share that was chosen, marked with a line.
        score: what they are, for the axis.
        factor: by which they are drawn larger.
        format: of the file.

    Examples:
        >>> from finetune_jax import figures
        >>> figures.interpolation_curve([0, 0.5, 1], {"validation": [0.2, 0.7, 0.6]}, 1)[1:4]
        b'PNG'
    """
    return canvas.encode(draw_interpolation_curve(alphas, scores, chosen, score=score, factor=factor), format)


def draw_interpolation_curve(
    alphas: Sequence[float],
    scores: Mapping[str, Sequence[float]],
    chosen: int,
    *,
    score: str = "accuracy, %",
    factor: float = 100,
) -> "Figure":
    """The figure of :func:`interpolation_curve`.

    Examples:
        >>> from finetune_jax import figures
        >>> figure = figures.draw_interpolation_curve([0, 0.5, 1], {"validation": [0.2, 0.7, 0.6]}, 1)
        >>> figure.axes[0].get_xlabel()
        'share of the trained weights (alpha)'
    """
    figure, axis = canvas.new(1, 1, (4.6, 3.4))
    order = np.argsort(alphas)
    for name, values in scores.items():
        style = {"color": _COLOURS[name]} if name in _COLOURS else {}
        axis.plot(
            np.asarray(alphas)[order],
            factor * np.asarray(values)[order],
            "o-",
            markersize=4,
            label=name,
            **style,
        )
    axis.axvline(alphas[chosen], color=canvas.GREY, linestyle=":")
    axis.set_xlabel("share of the trained weights (alpha)")
    axis.set_ylabel(score)
    axis.legend()
    axis.grid(alpha=0.25)
    return figure
