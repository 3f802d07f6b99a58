"""What all figures share: a canvas without a display, its PNG, photographs in cells."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOOD, BAD = "#1a7f37", "#c62828"

_WIDE_RANGE = 30  # largest to smallest value


def new(rows: int, columns: int, size: tuple[float, float], **subplots: Any) -> tuple["Figure", Any]:
    """A figure of ``size`` inches and its axes, as ``Figure.subplots`` gives them."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))
    return figure, figure.subplots(rows, columns, **subplots)


def png(figure: "Figure") -> bytes:
    """The same figure always gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()


def number(value: float) -> str:
    """A score as text: shares with four decimals, percentages with two."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def use_log_scale_where_needed(axis: Any, values: np.ndarray) -> None:
    """A logarithmic y axis if the positive finite ``values`` span more than a linear one can show."""
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size and positive.max() > _WIDE_RANGE * positive.min():
        axis.set_yscale("log")


def show_photo(axis: Any, image: np.ndarray) -> None:
    """A photograph uint8 ``[H, W, C]`` (``C`` 1 or 3) without ticks."""
    axis.imshow(np.broadcast_to(image, (*image.shape[:2], 3)))
    axis.set_xticks([])
    axis.set_yticks([])
