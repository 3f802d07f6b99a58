"""Methods side by side, with every seed to be seen."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_INTERVALS: Mapping[str, Mapping[str, tuple[float, float]]] = {}


def compare_methods(
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] = _NO_INTERVALS,
    unit: str = "",
    format: canvas.Format = "png",
) -> bytes:
    """The scores of all seeds and their mean, one row per method and one panel per metric, as a file.

    Args:
        scores: metric to method to one number per seed. A method may lack a metric, and seeds differ in
            number; a number that is not finite is no point, and the row says how many there are.
        intervals: metric to method to both ends of an interval, a thin line behind the points.
        unit: ``%`` or empty.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> scores = {"flowers": {"single rate": [0.8, 0.82], "AutoLR": [0.84, 0.85]}}
        >>> figures.compare_methods(scores)[1:4]
        b'PNG'
    """
    return canvas.encode(draw_compare_methods(scores, intervals=intervals, unit=unit), format)


def draw_compare_methods(
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] = _NO_INTERVALS,
    unit: str = "",
) -> "Figure":
    """The figure of :func:`compare_methods`.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> scores = {"flowers": {"single rate": [0.8, 0.82], "AutoLR": [0.84, 0.85]}}
        >>> figure = figures.draw_compare_methods(scores)
        >>> figure.axes[0].get_title()
        'flowers'
    """
    methods = list(dict.fromkeys(method for metric in scores.values() for method in metric))
    longest = max(map(len, methods), default=0)
    size = (0.6 + 0.08 * longest + 3.4 * len(scores), 1.2 + 0.36 * len(methods))
    figure, axes = canvas.new(1, len(scores), size, squeeze=False, sharey=True)
    several = False
    for axis, (metric, by_method) in zip(axes[0], scores.items(), strict=True):
        for row, method in enumerate(methods):
            values = np.asarray(by_method.get(method, ()), np.float64)
            known = values[np.isfinite(values)]
            ends = intervals.get(metric, {}).get(method)
            if ends is not None:
                axis.plot(ends, (row, row), "-", color=canvas.GREY, linewidth=1.2, zorder=1)
            if known.size:
                axis.plot(known, np.full(known.size, row), "o", color=canvas.BLUE, alpha=0.6, mew=0)
            if known.size > 1:
                several = True
                axis.plot(known.mean(), row, "|", color=canvas.INK, markersize=16, mew=1.5)
            text = canvas.number(known.mean(), unit) if known.size else "–"
            if known.size < values.size:
                text += f" ({known.size} of {values.size})"
            axis.text(1.02, row, text, transform=axis.get_yaxis_transform(), va="center", fontsize=8)
        axis.set_title(f"{metric}, {unit}" if unit else metric, fontsize=10)
        axis.locator_params(axis="x", nbins=5)
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(alpha=0.25)
        axis.margins(x=0.12)
    axes[0, 0].set_yticks(range(len(methods)), methods)
    axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    _add_legend(figure, mean=several, interval=bool(intervals))
    return figure


def _add_legend(figure: "Figure", *, mean: bool, interval: bool) -> None:
    from matplotlib.lines import Line2D

    def entry(label: str, **style: object) -> Line2D:
        return Line2D([], [], label=label, **style)  # type: ignore[arg-type]

    entries = [entry("one seed", marker="o", linestyle="", color=canvas.BLUE, alpha=0.6, mew=0)]
    if mean:
        entries.append(entry("mean", marker="|", linestyle="", color=canvas.INK, markersize=10, mew=1.5))
    if interval:
        entries.append(entry("95 % interval of the test images", color=canvas.GREY, linewidth=1.2))
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries), frameon=False, fontsize=8)
