"""What was predicted of numbers, over what is true."""

from typing import TYPE_CHECKING

import numpy as np

from finetune_jax.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_TOOLTIPS = 1500


def scatter(
    values: np.ndarray, targets: np.ndarray, name: str = "value", *, format: canvas.Format = "png"
) -> bytes:
    """Predictions over true values as a file; on the diagonal they are equal.

    Args:
        values: predicted, ``[N]``.
        targets: true, ``[N]``.
        name: of the number.
        format: of the file.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> figures.scatter(np.array([1.0, 2.5]), np.array([1.0, 2.0]), "age")[1:4]
        b'PNG'
    """
    return canvas.encode(draw_scatter(values, targets, name), format)


def draw_scatter(values: np.ndarray, targets: np.ndarray, name: str = "value") -> "Figure":
    """The figure of :func:`scatter`.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> figures.draw_scatter(np.array([1.0, 2.5]), np.array([1.0, 2.0]), "age").axes[0].get_xlabel()
        'true age'
    """
    figure, axis = canvas.new(1, 1, (4.2, 4.0))
    both = np.concatenate([values, targets])
    low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
    margin = 0.04 * (high - low or 1)
    axis.plot([low, high], [low, high], ":", color=canvas.GREY, linewidth=1)
    many = len(values) > _MOST_TOOLTIPS
    axis.scatter(
        targets,
        values,
        s=12,
        color=canvas.BLUE,
        alpha=max(0.15, min(0.7, 60 / max(1, len(values)) ** 0.7)),
        linewidths=0,
        rasterized=many,
    )
    axis.set_xlim(low - margin, high + margin)
    axis.set_ylim(low - margin, high + margin)
    axis.set_xlabel(f"true {name}")
    axis.set_ylabel(f"predicted {name}")
    axis.grid(alpha=0.25)
    return figure
