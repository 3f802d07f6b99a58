"""Errors over a hyperparameter."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = Mapping[str, Sequence[tuple[float, float]]]
"""``{label: (value, error) of each trial}``."""


def error_curves(
    panels: Mapping[str, Curves],
    *,
    error_name: str = "error",
    best: str = "",
    joined: bool = True,
    format: canvas.Format = "png",
) -> bytes:
    """The lowest error at each value, one panel per hyperparameter and one curve per label, as a file.

    Every trial is a pale dot; a curve goes through the lowest of those at the same value. The axis is
    logarithmic, with ticks at the values that were tried; a value of 0 stands at its left end, apart from the others
    and the curve.

    Args:
        panels: ``{name of the hyperparameter: curves}``; values are not negative.
        error_name: of the vertical axis.
        best: label of a further curve through the lowest of all, where there are several; empty draws none.
        joined: whether the points of a label belong together; False draws the trials alone.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> panels = {"learning rate": {"momentum 0": [(0.1, 20.0), (0.01, 30.0)]}}
        >>> figures.error_curves(panels)[1:4]
        b'PNG'
    """
    figure = draw_error_curves(panels, error_name=error_name, best=best, joined=joined)
    return canvas.encode(figure, format)


def draw_error_curves(
    panels: Mapping[str, Curves], *, error_name: str = "error", best: str = "", joined: bool = True
) -> "Figure":
    """The figure of :func:`error_curves`.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> panels = {"learning rate": {"momentum 0": [(0.1, 20.0), (0.01, 30.0)]}}
        >>> figure = figures.draw_error_curves(panels)
        >>> figure.axes[0].get_xlabel()
        'learning rate'
    """
    from matplotlib.lines import Line2D

    figure, axes = canvas.new(1, len(panels), (1.2 + 4.6 * len(panels), 3.8), squeeze=False, sharey=True)
    for axis, (name, curves) in zip(axes[0], panels.items(), strict=True):
        trials = [trial for curve in curves.values() for trial in curve]
        zero = _place_of_zero([value for value, _ in trials])
        for color, (label, curve) in zip(canvas.block_colors(len(curves)), curves.items(), strict=True):
            placed = [(value or zero, error) for value, error in curve]
            if not joined:
                axis.plot(*_columns(placed), "o", color=color, markersize=5, label=label)
                continue
            axis.plot(*_columns(placed), "o", color=color, alpha=0.3, mew=0, markersize=4)
            lowest = _apart(_lowest(placed), zero)
            axis.plot(*_columns(lowest), "o-", color=color, markersize=5, linewidth=1.3, label=label)
        if best and len(curves) > 1:
            lowest = _apart(_lowest([(value or zero, error) for value, error in trials]), zero)
            axis.plot(*_columns(lowest), "--", color=canvas.INK, linewidth=1, label=best)
        axis.set_xscale("log")
        values = sorted({value or zero for value, _ in trials})
        canvas.ticks_at(axis, values, names=["0" if value == zero else f"{value:.3g}" for value in values])
        if any(value == 0 for value, _ in trials):
            axis.axvline(zero * 10**0.5, color=canvas.GREY, linewidth=0.8, linestyle=":")
        axis.set_xlabel(name)
        axis.grid(alpha=0.25)
        if trials:
            handles = axis.get_legend_handles_labels()[0]
            if joined:
                pale = Line2D(
                    [], [], marker="o", linestyle="", color=canvas.GREY, alpha=0.4, mew=0, markersize=4
                )
                pale.set_label("single trials")
                handles.append(pale)
            axis.legend(handles=handles, frameon=False, fontsize=8)
    axes[0, 0].set_ylabel(error_name)
    return figure


def _place_of_zero(values: Sequence[float]) -> float:
    """A decade below the smallest other value."""
    return min((value for value in values if value > 0), default=1.0) / 10


def _apart(curve: Sequence[tuple[float, float]], zero: float) -> list[tuple[float, float]]:
    """The curve with a gap after its point at ``zero``."""
    gap = [(zero, math.nan)] if curve and curve[0][0] == zero else []
    return [*curve[: len(gap)], *gap, *curve[len(gap) :]]


def _lowest(trials: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    lowest: dict[float, float] = {}
    for value, error in trials:
        lowest[value] = min(error, lowest.get(value, error))
    return sorted(lowest.items())


def _columns(trials: Sequence[tuple[float, float]]) -> tuple[Any, Any]:
    return [value for value, _ in trials], [error for _, error in trials]
