"""Scores over α and β of AutoLR."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def alpha_beta_grid(
    scores: np.ndarray,
    alphas: Sequence[float],
    betas: Sequence[float],
    unavailable: np.ndarray,
    *,
    score_name: str = "score",
    format: canvas.Format = "png",
) -> bytes:
    """Scores by AutoLR's α and β as a file, the paper's Figure 3.

    The highest cell has a frame where there is only one, a missing cell is blank.

    Args:
        scores: ``[A, B]`` in [0, 1], shown in percent; NaN where there is none.
        alphas: ``A`` values, one per row.
        betas: ``B`` values, one per column.
        unavailable: bool ``[A, B]``, where ``β·max v ≤ α·min v``, so that there are no ascending targets:
            hatched, whatever was measured there.
        score_name: of what was measured.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> scores, unavailable = np.array([[0.8], [0.9]]), np.array([[False], [False]])
        >>> figures.alpha_beta_grid(scores, alphas=[1.0, 2.0], betas=[0.4], unavailable=unavailable)[1:4]
        b'PNG'
    """
    figure = draw_alpha_beta_grid(scores, alphas, betas, unavailable, score_name=score_name)
    return canvas.encode(figure, format)


def draw_alpha_beta_grid(
    scores: np.ndarray,
    alphas: Sequence[float],
    betas: Sequence[float],
    unavailable: np.ndarray,
    *,
    score_name: str = "score",
) -> "Figure":
    """The figure of :func:`alpha_beta_grid`.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> scores, unavailable = np.array([[0.8], [0.9]]), np.array([[False], [False]])
        >>> figure = figures.draw_alpha_beta_grid(scores, alphas=[1.0, 2.0], betas=[0.4], unavailable=unavailable)
        >>> figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
        ('β', 'α')
    """
    from matplotlib.patches import Rectangle

    unavailable = np.asarray(unavailable, bool)
    shown = 100 * np.where(unavailable, np.nan, np.asarray(scores, np.float64))
    rows, columns = shown.shape
    figure, axis = canvas.new(1, 1, (2.2 + 0.62 * columns, 1.2 + 0.5 * rows))
    known = np.isfinite(shown)
    low, high = (np.nanmin(shown), np.nanmax(shown)) if known.any() else (0.0, 1.0)
    # A scale around equal values would show rounding.
    low, high = (low, high) if high - low > 1e-9 else (low - 1, high + 1)
    picture = axis.imshow(shown, cmap=canvas.heat(), aspect="auto", origin="lower", vmin=low, vmax=high)
    if known.any():
        for row, column in zip(*np.nonzero(known), strict=True):
            dark = shown[row, column] - low > 0.55 * (high - low)
            axis.text(
                column,
                row,
                f"{shown[row, column]:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color=canvas.ON_DARK if dark else canvas.ON_PALE,
            )
        highest = np.argwhere(known & (shown >= np.nanmax(shown) - 1e-9))
        if len(highest) == 1:
            row, column = highest[0]
            axis.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2)
            )
        figure.colorbar(picture, ax=axis, label=f"{score_name}, %")
    for row, column in zip(*np.nonzero(unavailable), strict=True):
        axis.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                facecolor="#f2f2f2",
                edgecolor="#9a9a9a",
                hatch="///",
                linewidth=0,
            )
        )
    axis.set_xticks(range(columns), [f"{beta:g}" for beta in betas])
    axis.set_yticks(range(rows), [f"{alpha:g}" for alpha in alphas])
    axis.set_xlabel("β")
    axis.set_ylabel("α")
    return figure
