"""Figures of a run, drawn without a display."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_MANY_CLASSES = 30


def training_curves(rows: Sequence[Mapping[str, str]], best_epoch: int) -> bytes:
    """Loss and accuracy over epochs as PNG.

    Args:
        rows: of ``metrics.csv``.
        best_epoch: marked with a line.
    """
    figure, axes = _figure(1, 2, (9, 3.2))
    for axis, quantity in zip(axes, ("loss", "accuracy"), strict=True):
        for split, color in (("train", "#7a7a7a"), ("validation", "#1f6fb2"), ("test", "#c2571a")):
            points = [
                (int(row["epoch"]), float(row[f"{split}_{quantity}"]))
                for row in rows
                if row.get(f"{split}_{quantity}")
            ]
            if points:
                axis.plot(*zip(*points, strict=True), label=split, color=color, marker="o", markersize=3)
        axis.axvline(best_epoch, color="#1f6fb2", linewidth=0.8, linestyle=":")
        axis.set_xlabel("epoch")
        axis.set_title(quantity, fontsize=10)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(frameon=False, fontsize=8)
        axis.grid(alpha=0.25)
    return _png(figure)


def confusion(matrix: np.ndarray, class_names: Sequence[str]) -> bytes:
    """A confusion matrix (rows are true classes, shares of each row) as PNG.

    Args:
        matrix: counts ``[C, C]``.
        class_names: ``C`` names, written where they fit.
    """
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    count = len(class_names)
    side = min(9.0, 2.4 + 0.32 * count)
    figure, axis = _figure(1, 1, (side, side))
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
    return _png(figure)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()
