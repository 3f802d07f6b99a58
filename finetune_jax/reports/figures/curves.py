"""Loss and score of a run."""

from collections.abc import Mapping, Sequence

from finetune_jax.reports.figures import canvas
from finetune_jax.reports.tables import spoken


def training_curves(rows: Sequence[Mapping[str, str]], best_epoch: int, score: str = "accuracy") -> bytes:
    """Loss and score over epochs as PNG.

    Args:
        rows: of ``metrics.csv``.
        best_epoch: marked with a line.
        score: name of the score, without its split.
    """
    figure, axes = canvas.new(1, 2, (9, 3.2))
    for axis, quantity in zip(axes, ("loss", score), strict=True):
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
        axis.set_title(spoken(quantity), fontsize=10)
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8)
        axis.grid(alpha=0.25)
    return canvas.png(figure)
