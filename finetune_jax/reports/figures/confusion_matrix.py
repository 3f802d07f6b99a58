"""Which classes are taken for which."""

from collections.abc import Sequence

import numpy as np

from finetune_jax.reports.figures import canvas

_MANY_CLASSES = 30


def confusion(matrix: np.ndarray, class_names: Sequence[str]) -> bytes:
    """A confusion matrix (rows are true classes, shares of each row) as PNG.

    Args:
        matrix: counts ``[C, C]``.
        class_names: ``C`` names, written where they fit.
    """
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    count = len(class_names)
    side = min(9.0, 2.4 + 0.32 * count)
    figure, axis = canvas.new(1, 1, (side, side))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if count <= _MANY_CLASSES:
        axis.set_xticks(range(count), class_names, rotation=90, fontsize=8)
        axis.set_yticks(range(count), class_names, fontsize=8)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            axis.text(
                column,
                row,
                str(matrix[row, column]),
                ha="center",
                va="center",
                fontsize=7,
                color="white" if shares[row, column] > 0.5 else "black",
            )
    return canvas.png(figure)
