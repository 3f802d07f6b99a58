"""Methods side by side, with every seed to be seen."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compare_methods(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """The scores of all seeds and their mean, one row per method and one panel per metric, as PNG.

    Args:
        scores: metric to method to one number per seed. A method may lack a metric, and seeds differ in
            number; a number that is not finite is no point, and the row says how many there are.
    """
    return canvas.png(_draw_compare_methods(scores))


def _draw_compare_methods(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> "Figure":
    methods = list(dict.fromkeys(method for metric in scores.values() for method in metric))
    longest = max(map(len, methods), default=0)
    size = (0.6 + 0.08 * longest + 3.2 * len(scores), 0.9 + 0.36 * len(methods))
    figure, axes = canvas.new(1, len(scores), size, squeeze=False, sharey=True)
    for axis, (metric, by_method) in zip(axes[0], scores.items(), strict=True):
        for row, method in enumerate(methods):
            values = np.asarray(by_method.get(method, ()), np.float64)
            known = values[np.isfinite(values)]
            if known.size:
                axis.plot(known, np.full(known.size, row), "o", color="#1f6fb2", alpha=0.4, mew=0)
                axis.plot(known.mean(), row, "|", color="black", markersize=16, mew=1.5)
            text = canvas.number(known.mean()) if known.size else "–"
            if known.size < values.size:
                text += f" ({known.size} of {values.size})"
            axis.text(1.02, row, text, transform=axis.get_yaxis_transform(), va="center", fontsize=8)
        axis.set_title(metric, fontsize=10)
        axis.locator_params(axis="x", nbins=5)
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(alpha=0.25)
    axes[0, 0].set_yticks(range(len(methods)), methods)
    axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    return figure
