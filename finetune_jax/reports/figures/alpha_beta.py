"""What α and β of AutoLR are worth."""

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
) -> bytes:
    """Scores by AutoLR's α and β as PNG, the paper's Figure 3.

    The best cell has a frame, a missing one is blank.

    Args:
        scores: ``[A, B]``, NaN where there is none.
        alphas: ``A`` values, one per row.
        betas: ``B`` values, one per column.
        unavailable: bool ``[A, B]``, where ``β·max v ≤ α·min v``, so that there are no ascending targets:
            hatched, whatever was measured there.
        score_name: of what was measured.
    """
    return canvas.png(_draw_alpha_beta_grid(scores, alphas, betas, unavailable, score_name))


def _draw_alpha_beta_grid(
    scores: np.ndarray,
    alphas: Sequence[float],
    betas: Sequence[float],
    unavailable: np.ndarray,
    score_name: str,
) -> "Figure":
    import matplotlib
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    unavailable = np.asarray(unavailable, bool)
    shown = np.where(unavailable, np.nan, np.asarray(scores, np.float64))
    rows, columns = shown.shape
    figure, axis = canvas.new(1, 1, (2.2 + 0.62 * columns, 1.2 + 0.5 * rows))
    # Without the palest colours, from which a missing cell would not differ.
    colors = ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.15, 1, 256)))
    picture = axis.imshow(shown, cmap=colors, aspect="auto", origin="lower")
    known = np.isfinite(shown)
    if known.any():
        low, high = np.nanmin(shown), np.nanmax(shown)
        for row, column in zip(*np.nonzero(known), strict=True):
            dark = shown[row, column] - low > 0.55 * (high - low)
            axis.text(
                column,
                row,
                canvas.number(shown[row, column]),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
        best = np.unravel_index(np.nanargmax(shown), shown.shape)
        axis.add_patch(
            Rectangle((best[1] - 0.5, best[0] - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2)
        )
        figure.colorbar(picture, ax=axis, label=score_name)
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
