"""Which classes are taken for which."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMES = 60
_MOST_COUNTS = 30
_MOST_TOOLTIPS = 1500
_SMALLEST_CELL = 3.0  # points


def confusion(matrix: np.ndarray, class_names: Sequence[str], *, format: canvas.Format = "png") -> bytes:
    """A confusion matrix (rows are true classes, shares of each row) as a file.

    Cells have their counts up to 30 classes, axes all names up to 60 and some of them beyond. In a page every cell
    that counts images names its two classes under the pointer.

    Args:
        matrix: counts ``[C, C]``.
        class_names: ``C`` names.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> figures.confusion(np.array([[9, 1], [2, 8]]), ["cat", "dog"])[1:4]
        b'PNG'
    """
    return canvas.encode(draw_confusion(matrix, class_names), format)


def draw_confusion(matrix: np.ndarray, class_names: Sequence[str]) -> "Figure":
    """The figure of :func:`confusion`.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> figure = figures.draw_confusion(np.array([[9, 1], [2, 8]]), ["cat", "dog"])
        >>> figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
        ('predicted', 'true')
    """
    matrix = np.asarray(matrix)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    count = len(class_names)
    longest = min(30, max(map(len, class_names), default=0))
    side = float(np.clip(0.3 * min(count, _MOST_COUNTS) + 0.14 * max(0, count - _MOST_COUNTS), 1.2, 9))
    figure, axis = canvas.new(1, 1, (side + 0.9 + 0.07 * longest,) * 2)
    # Of very many classes a cell is enlarged to what can be seen and pointed at.
    points = 72 * side / count
    enlarged = max(1.0, _SMALLEST_CELL / points)
    rows, columns = np.nonzero(matrix)
    if enlarged > 1:
        order = np.argsort(shares[rows, columns], kind="stable")
        rows, columns = rows[order], columns[order]
        axis.scatter(
            columns,
            rows,
            c=shares[rows, columns],
            s=_SMALLEST_CELL**2,
            marker="s",
            cmap=canvas.heat(0.35),
            vmin=0,
            vmax=1,
            linewidths=0,
            rasterized=True,
        )
        axis.set_aspect("equal")
        axis.set_xlim(-0.5, count - 0.5)
        axis.set_ylim(count - 0.5, -0.5)
    else:
        # Cells without images show the ground, in a page light or dark.
        cells = np.ma.masked_where(matrix == 0, shares)
        axis.imshow(cells, cmap=canvas.heat(0.12), vmin=0, vmax=1, interpolation="nearest")
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    every = -(-count // _MOST_NAMES) if count > _MOST_NAMES else 1
    places = range(0, count, every)
    size = 8 if count <= _MOST_COUNTS else 6
    shown = [_short(class_names[place], longest) for place in places]
    axis.set_xticks(places, shown, rotation=90, fontsize=size)
    axis.set_yticks(places, shown, fontsize=size)
    axis.tick_params(length=2)
    if count <= _MOST_COUNTS:
        for row, column in zip(rows, columns, strict=True):
            axis.text(
                column,
                row,
                str(matrix[row, column]),
                ha="center",
                va="center",
                fontsize=7,
                color=canvas.ON_DARK if shares[row, column] > 0.5 else canvas.ON_PALE,
            )
    _add_tooltips(axis, matrix, class_names, enlarged)
    return figure


def _add_tooltips(axis: Any, matrix: np.ndarray, class_names: Sequence[str], size: float) -> None:
    from matplotlib.patches import Rectangle

    images = matrix.sum(1)
    rows, columns = np.nonzero(matrix)
    # Of very many cells those of most mistakes, then those of most images.
    order = np.lexsort((-matrix[rows, columns], rows == columns))[:_MOST_TOOLTIPS]
    for row, column in zip(rows[order], columns[order], strict=True):
        verb = "recognised" if row == column else f"taken for {class_names[column]}"
        text = f"{class_names[row]}, {verb}: {matrix[row, column]} of {images[row]}"
        corner = (column - size / 2, row - size / 2)
        cell = Rectangle(corner, size, size, facecolor="none", edgecolor="none", linewidth=0)
        cell.set_gid(f"{canvas.HOVER}{text}")
        axis.add_patch(cell)


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
