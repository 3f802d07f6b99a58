"""Similarity to the source against the best effective learning rate."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def similarities(
    references: Mapping[str, tuple[float, float]],
    targets: Mapping[str, tuple[float, float, float]],
    *,
    title: str = "",
) -> bytes:
    """Data sets with known best rates as points, others as the range of rates to search, as PNG.

    Args:
        references: name to similarity and best effective learning rate.
        targets: name to similarity and the ends of the recommended range.
        title: of the references.
    """
    return canvas.png(_draw_similarities(references, targets, title))


def _draw_similarities(
    references: Mapping[str, tuple[float, float]],
    targets: Mapping[str, tuple[float, float, float]],
    title: str,
) -> "Figure":
    figure, axis = canvas.new(1, 1, (7.5, 4.2))
    for name, (similarity, rate) in references.items():
        axis.plot(similarity, rate, "o", color="#1f6fb2")
        axis.annotate(
            name, (similarity, rate), (4, 4), textcoords="offset points", fontsize=8, color="#1f6fb2"
        )
    for index, (name, (similarity, low, high)) in enumerate(targets.items()):
        color = f"C{1 + index % 9}"
        axis.plot([similarity, similarity], [low, high], "-", color=color, linewidth=4, alpha=0.6, label=name)
    axis.set_yscale("log")
    axis.set_xlabel("similarity to the source")
    axis.set_ylabel("effective learning rate")
    axis.set_title(f"points: best rates of {title}" if title else "points: best rates", fontsize=9)
    axis.grid(alpha=0.25)
    if targets:
        axis.legend(fontsize=8, loc="best", title="search for", title_fontsize=8)
    return figure
