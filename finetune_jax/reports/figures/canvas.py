"""What all figures share: a canvas without a display, colours, formats, photographs in cells.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which people with any kind of colour vision tell
apart; where colour means right or wrong, a line style or a mark says it too.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from finetune_jax.reports.figures import glyphs

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

Format = Literal["png", "svg", "pdf"]
FORMATS: tuple[Format, ...] = ("png", "svg", "pdf")

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)
RIGHT, WRONG = BLUE, VERMILLION
INK, PAPER, GREY = "#000000", "#ffffff", "#808080"
"""Text and axes, and the ground; a page turns ink and paper into its own colours."""
ON_PALE, ON_DARK = "#000001", "#fffffe"
"""Text on a cell that has the same colour in a light and a dark page."""

HOVER = "title:"
"""What the ``gid`` of an artist begins with that shows the rest of it as a tooltip in a page."""

_ONE_AT_A_TIME = threading.Lock()
"""Settings of Matplotlib, also those within a context, are of the whole process, and not of a thread."""

_WIDE_RANGE = 30  # largest to smallest value
_SAVE_AS: dict[str, dict[str, Any]] = {
    # Without dates and versions: the same figure always gives the same bytes.
    "png": {"dpi": 120, "metadata": {"Software": None}},
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
}


def new(rows: int, columns: int, size: tuple[float, float], **subplots: Any) -> tuple["Figure", Any]:
    """A figure of ``size`` inches and its axes, as ``Figure.subplots`` gives them."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))
    return figure, figure.subplots(rows, columns, **subplots)


def encode(
    figure: "Figure", format: Format = "png", *, text: bool = False, transparent: bool = False
) -> bytes:
    """A figure as a file; the same figure always gives the same bytes.

    Args:
        figure: of any function ``draw_…`` of this package.
        format: ``png`` of 120 dots per inch, or ``svg`` or ``pdf`` for print.
        text: letters of an SVG stay text, smaller and in the fonts of the reader, instead of outlines.
        transparent: no white ground.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import figures
        >>> figure = figures.draw_confusion(np.array([[9, 1], [2, 8]]), ["cat", "dog"])
        >>> figures.encode(figure, "pdf")[:4]
        b'%PDF'
    """
    import matplotlib

    file = io.BytesIO()
    if not (text and format == "svg"):
        glyphs.make_readable(figure)
    outlines = "none" if text else "path"
    with (
        _ONE_AT_A_TIME,
        matplotlib.rc_context({"svg.fonttype": outlines, "svg.hashsalt": "figure", "pdf.fonttype": 42}),
        warnings.catch_warnings(),
    ):
        # Letters that stay text are the reader's business.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        with _laid_out(figure, format):
            figure.savefig(file, format=format, transparent=transparent, **_SAVE_AS[format])
    return file.getvalue()


@contextlib.contextmanager
def _laid_out(figure: "Figure", format: Format) -> Iterator[None]:
    """The figure with its parts in their places, and without what places them.

    Matplotlib places them by drawing the whole figure to nowhere, which takes as long as drawing it.
    """
    from matplotlib.backend_bases import get_registered_canvas_class

    engine, canvas, dpi = figure.get_layout_engine(), figure.canvas, figure.dpi
    if engine is None:
        yield
        return
    get_registered_canvas_class(format)(figure)  # letters are as wide as the format has them
    figure.dpi = _SAVE_AS[format].get("dpi", dpi)
    try:
        engine.execute(figure)
    finally:
        figure.set_canvas(canvas)
        figure.dpi = dpi
    figure.set_layout_engine(None)
    try:
        yield
    finally:
        figure.set_layout_engine(engine)


def number(value: float, unit: str = "") -> str:
    """A number as text: percent with two decimals, others with four digits."""
    return f"{value:.2f} %" if unit == "%" else f"{value:.4g}"


def heat(low: float = 0.15) -> "Colormap":
    """White to dark blue, from a share ``low`` of the way on: a value differs from a cell that has none."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps["Blues"](np.linspace(low, 1, 256)))


def block_colors(count: int) -> Any:
    """``[K, 4]``, from dark for low blocks to light for high ones, evenly to the eye."""
    import matplotlib

    # Without the ends, which vanish on black and on white.
    return matplotlib.colormaps["viridis"](np.linspace(0.2, 0.92, count))


def use_log_scale_where_needed(axis: Any, values: np.ndarray) -> None:
    """A logarithmic y axis if the positive finite ``values`` span more than a linear one can show."""
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size and positive.max() > _WIDE_RANGE * positive.min():
        axis.set_yscale("log")


def ticks_at(axis: Any, values: Sequence[float], *, names: Sequence[str] | None = None) -> None:
    """Ticks of a logarithmic x axis at the values that were tried, as many as do not overlap."""
    names = [f"{value:.3g}" for value in values] if names is None else names
    kept: list[tuple[float, str]] = []
    places = np.log10(np.asarray(values, np.float64))
    whole = float(np.ptp(places)) if len(values) else 0.0
    for value, name in sorted(zip(values, names, strict=True)):
        if kept:
            # A letter is about 0.06 inches wide, an axis about 3.6.
            room = (0.0085 * (len(name) + len(kept[-1][1])) + 0.01) * whole
            if np.log10(value / kept[-1][0]) < room:
                continue
        kept.append((value, name))
    axis.set_xticks([value for value, _ in kept], [name for _, name in kept], fontsize=8)
    axis.minorticks_off()


def show_photo(axis: Any, image: np.ndarray) -> None:
    """A photograph uint8 ``[H, W, C]`` (``C`` 1 or 3) without ticks."""
    axis.imshow(np.broadcast_to(image, (*image.shape[:2], 3)))
    axis.set_xticks([])
    axis.set_yticks([])
