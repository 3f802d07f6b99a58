"""What leaving out top blocks costs and saves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pruning_curve(
    depths: Sequence[int],
    scores: Sequence[Sequence[float]],
    costs: dict[str, Sequence[float]],
    *,
    chosen: int | None = None,
    score_name: str = "score",
    format: canvas.Format = "png",
) -> bytes:
    """Score, and what is left of each cost, over the number of top blocks left out, as a file.

    Args:
        depths: ``D`` numbers of blocks left out, ascending from 0.
        scores: ``D`` times one score in [0, 1] per seed.
        costs: ``{name: D numbers}``, such as parameters, shown as percent of the first.
        chosen: the depth that is marked.
        score_name: of the scores.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> scores, costs = [[0.8, 0.82], [0.85, 0.84], [0.7]], {"parameters": [30, 20, 10]}
        >>> figures.pruning_curve([0, 1, 2], scores, costs)[1:4]
        b'PNG'
    """
    figure = draw_pruning_curve(depths, scores, costs, chosen=chosen, score_name=score_name)
    return canvas.encode(figure, format)


def draw_pruning_curve(
    depths: Sequence[int],
    scores: Sequence[Sequence[float]],
    costs: dict[str, Sequence[float]],
    *,
    chosen: int | None = None,
    score_name: str = "score",
) -> "Figure":
    """The figure of :func:`pruning_curve`.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> scores, costs = [[0.8, 0.82], [0.85, 0.84], [0.7]], {"parameters": [30, 20, 10]}
        >>> figure = figures.draw_pruning_curve([0, 1, 2], scores, costs)
        >>> figure.axes[0].get_xlabel()
        'top blocks left out'
    """
    figure, (left, right) = canvas.new(1, 2, (8.4, 3.2))
    for depth, of_seeds in zip(depths, scores, strict=True):
        points = 100 * np.asarray(of_seeds, np.float64)
        if len(points) > 1:
            left.plot([depth] * len(points), points, "o", color=canvas.BLUE, alpha=0.35, mew=0, markersize=5)
    means = [100 * float(np.mean(of_seeds)) for of_seeds in scores]
    left.plot(depths, means, "o-", color=canvas.BLUE, markersize=5)
    for depth, mean in zip(depths, means, strict=True):
        left.annotate(
            f"{mean:.2f}", (depth, mean), (0, 7), textcoords="offset points", ha="center", fontsize=8
        )
    left.margins(x=0.12, y=0.2)
    left.set_title(f"{score_name}, %", fontsize=10)
    for (name, values), color, line in zip(
        costs.items(), canvas.COLORS, ("-", "--", "-.", ":"), strict=False
    ):
        right.plot(
            depths, [100 * v / values[0] for v in values], "o", linestyle=line, color=color, label=name, ms=4
        )
    right.set_title("left of the whole network, %", fontsize=10)
    right.set_ylim(0, 105)
    right.legend(frameon=False, fontsize=8, loc="lower left")
    for axis in (left, right):
        if chosen is not None:
            axis.axvline(chosen, color=canvas.BLUE, linewidth=0.8, linestyle=":")
        axis.set_xlabel("top blocks left out")
        axis.set_xticks(list(depths))
        axis.grid(alpha=0.25)
    return figure
