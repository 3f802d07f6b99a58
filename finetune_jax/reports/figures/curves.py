"""Loss and score of a run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from finetune_jax.reports.figures import canvas
from finetune_jax.reports.tables import is_share, spoken

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = {"train": (canvas.GREY, "-"), "validation": (canvas.BLUE, "-"), "test": (canvas.VERMILLION, "--")}


def training_curves(
    rows: Sequence[Mapping[str, str]],
    best_epoch: int | None,
    score: str = "accuracy",
    *,
    format: canvas.Format = "png",
) -> bytes:
    """Loss and score over epochs as a file; what was not measured has no panel.

    Args:
        rows: of ``metrics.csv``.
        best_epoch: marked with a line; None where none is chosen yet.
        score: name of the score, without its split.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> rows = [{"epoch": "1", "train_loss": "2.0"}, {"epoch": "2", "train_loss": "1.0"}]
        >>> figures.training_curves(rows, 2)[1:4]
        b'PNG'
    """
    return canvas.encode(draw_training_curves(rows, best_epoch, score), format)


def measured(rows: Sequence[Mapping[str, str]], score: str) -> list[str]:
    """Which of loss and score the rows have."""
    return [name for name in ("loss", score) if any(_points(rows, split, name) for split in _STYLES)]


def draw_training_curves(
    rows: Sequence[Mapping[str, str]],
    best_epoch: int | None,
    score: str = "accuracy",
    *,
    only: str | None = None,
) -> "Figure":
    """The figure of :func:`training_curves`; with ``only`` the panel of that quantity alone.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> rows = [{"epoch": "1", "train_loss": "2.0"}, {"epoch": "2", "train_loss": "1.0"}]
        >>> figure = figures.draw_training_curves(rows, 2)
        >>> figure.axes[0].get_xlabel()
        'epoch'
    """
    panels = [name for name in measured(rows, score) if only in (None, name)]
    figure, axes = canvas.new(1, max(1, len(panels)), (4.5 * max(1, len(panels)), 3.2), squeeze=False)
    for axis, quantity in zip(axes[0], panels, strict=False):
        percent = is_share(quantity)
        for split, (color, line) in _STYLES.items():
            points = _points(rows, split, quantity)
            if not points:
                continue
            points = [(epoch, 100 * value if percent else value) for epoch, value in points]
            axis.plot(
                *zip(*points, strict=True), label=split, color=color, linestyle=line, marker="o", markersize=3
            )
            chosen = dict(points).get(best_epoch or 0)
            if chosen is not None and split != "train":
                axis.annotate(
                    canvas.number(chosen, "%" if percent else ""),
                    (best_epoch, chosen),
                    (0, 6),
                    textcoords="offset points",
                    # Of the last epoch it would stand across the frame.
                    ha="right" if best_epoch == points[-1][0] > points[0][0] else "center",
                    fontsize=8,
                    color=color,
                )
        if best_epoch is not None:
            axis.axvline(best_epoch, color=canvas.BLUE, linewidth=0.8, linestyle=":")
        axis.set_xlabel("epoch")
        axis.set_title(f"{spoken(quantity)}, %" if percent else spoken(quantity), fontsize=10)
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axis.legend(frameon=False, fontsize=8)
        axis.grid(alpha=0.25)
        axis.margins(y=0.1)
    return figure


def _points(rows: Sequence[Mapping[str, str]], split: str, quantity: str) -> list[tuple[int, float]]:
    name = f"{split}_{quantity}"
    return [(int(row["epoch"]), float(row[name])) for row in rows if row.get(name)]
