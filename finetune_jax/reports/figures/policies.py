"""Which blocks a policy fine-tunes, and how many of them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 40  # more would be too small to read


def policy_usage(
    usage: Mapping[str, np.ndarray], blocks: Sequence[str], *, format: canvas.Format = "png"
) -> bytes:
    """Share of images that take the fine-tuned copy of each block as a file, SpotTune's Figure 3.

    Args:
        usage: name of a row (a data set, a class) to ``[L]`` in [0, 1]; of many rows the first ones are shown.
        blocks: ``L`` names.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> figures.policy_usage({"cats": np.array([0.1, 0.9])}, ["block_01", "block_02"])[1:4]
        b'PNG'
    """
    return canvas.encode(draw_policy_usage(usage, blocks), format)


def policy_counts(counts: Mapping[str, np.ndarray], *, format: canvas.Format = "png") -> bytes:
    """How many images use 0, 1 … L fine-tuned blocks as a file, SpotTune's Figure 4.

    Args:
        counts: name (a data set, a seed) to ``[L + 1]`` numbers of images, the same L for all.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> figures.policy_counts({"cats": np.array([3, 2, 1])})[1:4]
        b'PNG'
    """
    return canvas.encode(draw_policy_counts(counts), format)


def draw_policy_usage(usage: Mapping[str, np.ndarray], blocks: Sequence[str]) -> "Figure":
    """The figure of :func:`policy_usage`.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> figure = figures.draw_policy_usage({"cats": np.array([0.1, 0.9])}, ["block_01", "block_02"])
        >>> len(figure.axes) > 0
        True
    """
    names = list(usage)[:_ROWS]
    table = np.stack([np.asarray(usage[name], np.float64) for name in names])
    size = (2.4 + 0.5 * len(blocks), 1.2 + 0.36 * len(names))
    figure, axis = canvas.new(1, 1, size)
    picture = axis.imshow(100 * table, cmap=canvas.heat(0), vmin=0, vmax=100, aspect="auto")
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_xticks(range(len(blocks)), [name.removeprefix("block_") for name in blocks], fontsize=8)
    axis.set_xlabel("block")
    for row, column in np.ndindex(table.shape):
        share = table[row, column]
        color = canvas.ON_DARK if share > 0.6 else canvas.ON_PALE
        axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(picture, ax=axis, label="% of images fine-tuned")
    return figure


def draw_policy_counts(counts: Mapping[str, np.ndarray]) -> "Figure":
    """The figure of :func:`policy_counts`.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> figure = figures.draw_policy_counts({"cats": np.array([3, 2, 1])})
        >>> figure.axes[0].get_xlabel()
        'fine-tuned blocks'
    """
    first = next(iter(counts.values()))
    figure, axis = canvas.new(1, 1, (2 + 0.4 * len(first), 3))
    width = 0.8 / len(counts)
    for index, (name, values) in enumerate(counts.items()):
        places = np.arange(len(values)) + (index - (len(counts) - 1) / 2) * width
        axis.bar(places, values, width, label=name, color=canvas.COLORS[index % len(canvas.COLORS)])
    axis.set_xticks(range(len(first)))
    axis.set_xlabel("fine-tuned blocks")
    axis.set_ylabel("images")
    if len(counts) > 1:
        axis.legend(fontsize=8)
    return figure
