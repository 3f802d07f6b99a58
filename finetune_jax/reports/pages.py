"""Pages of HTML from templates: one file each, without network, light and dark, narrow and printed."""

import base64
import functools
import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune_jax.reports.figures.canvas import BLUE, HOVER, INK, PAPER, encode

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from matplotlib.figure import Figure

_PIXELATED = 96
"""Images up to this many pixels are enlarged by whole pixels, larger ones smoothly."""


def render(template: str, **values: Any) -> str:
    """A template of ``reports/templates`` filled in; all text is escaped.

    Args:
        template: its file name.
        **values: by the names that it uses.
    """
    return _environment().get_template(template).render(**values)


@functools.cache
def source(template: str) -> str:
    """A file of ``reports/templates`` as it is."""
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), template)[0]


@functools.cache
def _environment() -> "Environment":
    import jinja2

    from finetune_jax.reports import tables

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("finetune_jax.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    # A percent sign stays with its number.
    environment.filters["percent"] = lambda share: tables.percent(share).replace(" ", "\u00a0")
    environment.filters["between"] = tables.between
    environment.filters["words"] = _words
    return environment


def _words(text: str) -> "Markup":
    """A text whose flags are not broken at their hyphens."""
    from markupsafe import Markup, escape

    marked = (
        Markup('<span class="word">{}</span>').format(word) if word.startswith("--") else escape(word)
        for word in text.split(" ")
    )
    return Markup(" ").join(marked)


def inline(figure: "Figure") -> "Markup":
    """A figure as SVG within a page: its ink is the colour of the page's text, its tooltips are shown."""
    from markupsafe import Markup

    svg = encode(figure, "svg", text=True, transparent=True).decode()
    svg = svg[svg.index("<svg") :]
    width = float(re.search(r'width="([\d.]+)pt"', svg).group(1))  # type: ignore[union-attr]
    svg = re.sub(
        r'width="[\d.]+pt" height="[\d.]+pt"',
        f'style="width:{width:.0f}pt;max-width:max(100%,{0.7 * width:.0f}pt)"',
        svg,
        count=1,
    )
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(f'<g id="{HOVER}([^"]*)">', r'<g class="hover"><title>\1</title>', svg)
    # Several figures on a page have groups of the same names, which nothing refers to.
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    for colour, of_page in ((INK, "currentColor"), (PAPER, "var(--paper)"), (BLUE, "var(--accent)")):
        svg = svg.replace(colour, of_page).replace(colour.lower(), of_page)
    return Markup(svg)


def image(pixels: np.ndarray, *, most: int = 640) -> "Markup":
    """A photograph as an address of data for ``<img src>``.

    Args:
        pixels: uint8 ``[H, W, C]``, ``C`` 1 or 3.
        most: larger images are made smaller to this many pixels on the longer side.
    """
    from markupsafe import Markup
    from PIL import Image

    picture = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).astype(np.uint8))
    small = max(picture.size) <= _PIXELATED
    picture.thumbnail((most, most))
    file = io.BytesIO()
    picture.save(file, "PNG" if small else "JPEG", **({} if small else {"quality": 85}))
    kind = "png" if small else "jpeg"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}")


def is_small(pixels: np.ndarray) -> bool:
    """Whether an image is so small that enlarging it should show its pixels."""
    return max(pixels.shape[:2]) <= _PIXELATED
