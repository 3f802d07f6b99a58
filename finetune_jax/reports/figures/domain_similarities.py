"""Similarity to the source against the best effective learning rate."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DASHES = ("--", ":", "-.")


def similarities(
    references: Mapping[str, tuple[float, float]],
    targets: Mapping[str, tuple[float, float, float]],
    *,
    title: str = "",
    recommended: bool = True,
    format: canvas.Format = "png",
) -> bytes:
    """Data sets with known best rates as points, others as the range of rates to search, as a file.

    Args:
        references: name to similarity and best effective learning rate.
        targets: name to similarity and the ends of the recommended range.
        title: of the references.
        recommended: whether the ranges may be followed; where they are a guess, only the similarities are drawn.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> figures.similarities({"dogs": (0.86, 0.001)}, {"mine": (0.85, 0.1, 1.0)})[1:4]
        b'PNG'
    """
    figure = draw_similarities(references, targets, title=title, recommended=recommended)
    return canvas.encode(figure, format)


def draw_similarities(
    references: Mapping[str, tuple[float, float]],
    targets: Mapping[str, tuple[float, float, float]],
    *,
    title: str = "",
    recommended: bool = True,
) -> "Figure":
    """The figure of :func:`similarities`.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> figure = figures.draw_similarities({"dogs": (0.86, 0.001)}, {"mine": (0.85, 0.1, 1.0)})
        >>> figure.axes[0].get_xlabel()
        'similarity to the source'
    """
    figure, axis = canvas.new(1, 1, (7.5, 4.2))
    for name, (similarity, rate) in references.items():
        axis.plot(similarity, rate, "o", color=canvas.BLUE)
        axis.annotate(
            name, (similarity, rate), (4, 4), textcoords="offset points", fontsize=8, color=canvas.BLUE
        )
    for index, (name, (similarity, low, high)) in enumerate(targets.items()):
        if recommended:
            others = canvas.COLORS[1:]
            color = others[index % len(others)]
            axis.plot([similarity] * 2, [low, high], "-", color=color, linewidth=4, alpha=0.7, label=name)
        else:
            axis.axvline(similarity, color=canvas.GREY, linestyle=_DASHES[index % len(_DASHES)], label=name)
    axis.set_yscale("log")
    axis.set_xlabel("similarity to the source")
    axis.set_ylabel("effective learning rate")
    axis.set_title(f"points: best rates of {title}" if title else "points: best rates", fontsize=9)
    axis.grid(alpha=0.25)
    if targets:
        axis.legend(
            fontsize=8,
            loc="best",
            title="search for" if recommended else "no recommendation for",
            title_fontsize=8,
        )
    return figure
