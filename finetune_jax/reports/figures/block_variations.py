"""How far each block moves: over epochs, and from one trial of AutoLR to the next."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MANY_TICKS, _MOST_TICKS = 24, 100


def variations(values: np.ndarray, *, first_epoch: int = 1, format: canvas.Format = "png") -> bytes:
    """Weight variation per block over epochs as a file, the AutoLR paper's Figure 2.

    Args:
        values: ``[E, K]``, one row per epoch, the block nearest to the input first. What is not finite is
            left out, as is 0 on the logarithmic axis that is chosen where the values span a wide range.
        first_epoch: number of the first row.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> values = np.array([[1e-6, 2e-6], [2e-6, 3e-6]])  # two epochs, two blocks
        >>> figures.variations(values)[1:4]
        b'PNG'
    """
    return canvas.encode(draw_variations(values, first_epoch=first_epoch), format)


def trials(
    variations: np.ndarray,
    learning_rates: np.ndarray,
    epochs_and_trials: Sequence[tuple[int, int]],
    accepted: np.ndarray,
    *,
    format: canvas.Format = "png",
) -> bytes:
    """Weight variation and learning rate per block for each trial of AutoLR as a file, the paper's Figure 4.

    Rejected trials stand on a grey ground, with hollow points; those that diverged have a cross at the top.

    Args:
        variations: ``[T, K]``; not finite where a trial diverged.
        learning_rates: ``[T, K]`` that the trials were trained with.
        epochs_and_trials: ``T`` pairs, both counted from 1: the trial's epoch and its number in it.
        accepted: bool ``[T]``.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> values, rates = np.array([[2e-6, 1e-6], [1e-6, 2e-6]]), np.array([[0.1, 0.1], [0.05, 0.2]])
        >>> figures.trials(values, rates, [(1, 1), (1, 2)], np.array([False, True]))[1:4]
        b'PNG'
    """
    return canvas.encode(draw_trials(variations, learning_rates, epochs_and_trials, accepted), format)


def draw_variations(values: np.ndarray, *, first_epoch: int = 1) -> "Figure":
    """The figure of :func:`variations`.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> values = np.array([[1e-6, 2e-6], [2e-6, 3e-6]])  # two epochs, two blocks
        >>> figure = figures.draw_variations(values)
        >>> len(figure.axes[0].lines)
        4
    """
    values = np.asarray(values, np.float64)
    epochs = np.arange(first_epoch, first_epoch + len(values))
    figure, axis = canvas.new(1, 1, (7.5, 4))
    colors = canvas.block_colors(values.shape[1])
    for block, color in enumerate(colors):
        _line(axis, epochs, values[:, block], color)
        axis.plot(epochs, values[:, block], ".", color=color, markersize=4)
    canvas.use_log_scale_where_needed(axis, values)
    axis.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axis.set_xlabel("epoch")
    axis.set_ylabel("weight variation")
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axis.grid(alpha=0.25)
    _block_scale(figure, axis, colors)
    return figure


def draw_trials(
    variations: np.ndarray,
    learning_rates: np.ndarray,
    epochs_and_trials: Sequence[tuple[int, int]],
    accepted: np.ndarray,
) -> "Figure":
    """The figure of :func:`trials`.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> values, rates = np.array([[2e-6, 1e-6], [1e-6, 2e-6]]), np.array([[0.1, 0.1], [0.05, 0.2]])
        >>> figure = figures.draw_trials(values, rates, [(1, 1), (1, 2)], np.array([False, True]))
        >>> [axis.get_ylabel() for axis in figure.axes[:2]]
        ['weight variation', 'learning rate']
    """
    variations, learning_rates = np.asarray(variations, np.float64), np.asarray(learning_rates, np.float64)
    accepted = np.asarray(accepted, bool)
    count, blocks = variations.shape
    width = float(np.clip(2.5 + 0.3 * count, 6, 16))
    figure, axes = canvas.new(2, 1, (width, 6.4), sharex=True)
    colors = canvas.block_colors(blocks)
    positions = np.arange(count)
    for axis, values, name in zip(
        axes, (variations, learning_rates), ("weight variation", "learning rate"), strict=True
    ):
        for trial in positions[~accepted]:
            axis.axvspan(trial - 0.5, trial + 0.5, color=canvas.GREY, alpha=0.22, linewidth=0, zorder=0)
        for block, color in enumerate(colors):
            of_block = values[:, block]
            _line(axis, positions, of_block, color)
            axis.plot(positions[accepted], of_block[accepted], "o", color=color, markersize=3.5)
            axis.plot(
                positions[~accepted], of_block[~accepted], "o", color=color, mfc=canvas.PAPER, markersize=3.5
            )
        canvas.use_log_scale_where_needed(axis, values)
        axis.set_ylabel(name)
        axis.grid(alpha=0.25, axis="y")
    diverged = positions[~np.isfinite(variations).all(1)]
    if diverged.size:
        # At the top of the axis whatever its scale: these trials have no values.
        axes[0].plot(
            diverged,
            np.full(diverged.size, 0.96),
            "X",
            color=canvas.WRONG,
            markersize=7,
            transform=axes[0].get_xaxis_transform(),
        )
    _trial_ticks(axes[1], epochs_and_trials)
    axes[1].set_xlim(-0.5, count - 0.5)
    _trial_legend(figure, rejected=not accepted.all(), diverged=diverged.size > 0)
    _block_scale(figure, list(axes), colors)
    return figure


def _line(axis: Any, x: np.ndarray, y: np.ndarray, color: Any) -> None:
    """One block's line; it goes on where a value is missing, so that no trial stands alone."""
    known = np.isfinite(y)
    axis.plot(x[known], y[known], color=color, linewidth=1.2)


def _trial_ticks(axis: Any, epochs_and_trials: Sequence[tuple[int, int]]) -> None:
    every = -(-len(epochs_and_trials) // _MOST_TICKS)
    names = [f"{epoch}-{trial}" for epoch, trial in epochs_and_trials][::every]
    axis.set_xticks(
        range(0, len(epochs_and_trials), every),
        names,
        rotation=90 if len(names) > _MANY_TICKS else 0,
        fontsize=8,
    )
    axis.set_xlabel("epoch-trial")


def _trial_legend(figure: "Figure", *, rejected: bool, diverged: bool) -> None:
    from matplotlib.lines import Line2D

    def entry(marker: str, color: str, face: str, label: str) -> Line2D:
        return Line2D([], [], marker=marker, linestyle="", color=color, mfc=face, label=label)

    entries = [entry("o", canvas.GREY, canvas.GREY, "accepted")]
    if rejected:
        entries.append(entry("o", canvas.GREY, canvas.PAPER, "rejected"))
    if diverged:
        entries.append(entry("X", canvas.WRONG, canvas.WRONG, "diverged"))
    figure.legend(handles=entries, loc="outside upper left", ncols=len(entries), frameon=False, fontsize=9)


def _block_scale(figure: "Figure", axes: Any, colors: Any) -> None:
    """A bar with one step per block: a legend of 33 entries would be larger than the figure."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    count = len(colors)
    mapping = ScalarMappable(BoundaryNorm(np.arange(count + 1) + 0.5, count), ListedColormap(colors))
    every = -(-count // 17)
    # From the top down, for the highest block to be named always.
    numbers = np.arange(count, 0, -every)[::-1]
    bar = figure.colorbar(mapping, ax=axes, ticks=numbers, label="block", aspect=30, pad=0.02)
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=8, length=0)
