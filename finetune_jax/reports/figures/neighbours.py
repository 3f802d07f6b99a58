"""Queries and their nearest neighbours."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def retrieval_strips(
    queries: np.ndarray,
    neighbours: np.ndarray,
    similarities: np.ndarray,
    correct: np.ndarray,
    *,
    query_names: Sequence[str] | None = None,
    neighbour_names: Sequence[Sequence[str]] | None = None,
    format: canvas.Format = "png",
) -> bytes:
    """Queries and their nearest neighbours, most similar first, as a file.

    A neighbour of the query's class has a solid blue frame and a tick, any other a dashed orange-red frame and a
    cross; the similarity stands below.

    Args:
        queries: uint8 ``[Q, H, W, C]``, ``C`` 1 or 3.
        neighbours: uint8 ``[Q, k, H, W, C]``.
        similarities: ``[Q, k]``.
        correct: bool ``[Q, k]``, whether the neighbour is of the query's class.
        query_names: ``Q`` names of classes.
        neighbour_names: ``Q`` times ``k`` names of classes.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> photos = np.zeros((1, 8, 8, 3), np.uint8)
        >>> similarities, correct = np.array([[0.9]]), np.array([[True]])
        >>> figures.retrieval_strips(photos, photos[None], similarities, correct)[1:4]
        b'PNG'
    """
    figure = draw_retrieval_strips(
        queries,
        neighbours,
        similarities,
        correct,
        query_names=query_names,
        neighbour_names=neighbour_names,
    )
    return canvas.encode(figure, format)


def draw_retrieval_strips(
    queries: np.ndarray,
    neighbours: np.ndarray,
    similarities: np.ndarray,
    correct: np.ndarray,
    *,
    query_names: Sequence[str] | None = None,
    neighbour_names: Sequence[Sequence[str]] | None = None,
) -> "Figure":
    """The figure of :func:`retrieval_strips`.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> photos = np.zeros((1, 8, 8, 3), np.uint8)
        >>> similarities, correct = np.array([[0.9]]), np.array([[True]])
        >>> figure = figures.draw_retrieval_strips(photos, photos[None], similarities, correct)
        >>> len(figure.axes)
        2
    """
    rows, columns = len(queries), neighbours.shape[1] + 1
    height, width = queries.shape[1:3]
    side = float(np.clip(18 / columns, 1.0, 1.5))
    lines = 0.25 if neighbour_names is None else 0.4
    size = (side * columns + 0.3, (side * height / width + lines) * rows + 0.3)
    figure, axes = canvas.new(rows, columns, size, squeeze=False)
    for row in range(rows):
        canvas.show_photo(axes[row, 0], queries[row])
        if query_names is not None:
            axes[row, 0].set_xlabel(query_names[row], fontsize=8)
        for rank, axis in enumerate(axes[row, 1:]):
            canvas.show_photo(axis, neighbours[row, rank])
            right = bool(correct[row, rank])
            _frame(axis, right)
            text = f"{'✓' if right else '✗'} {similarities[row, rank]:.3f}"
            if neighbour_names is not None:
                text += f"\n{neighbour_names[row][rank]}"
            axis.set_xlabel(text, fontsize=8, color=canvas.RIGHT if right else canvas.WRONG)
    for axis, title in zip(axes[0], ("query", *range(1, columns)), strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def _frame(axis: Any, right: bool) -> None:
    for spine in axis.spines.values():
        spine.set(color=canvas.RIGHT if right else canvas.WRONG, linewidth=3)
        spine.set_linestyle("-" if right else (0, (2, 1.5)))
