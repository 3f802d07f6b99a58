"""Class names in any script are drawn, or numbered with a legend, and nothing is warned of."""

import warnings

import numpy as np
import pytest

from finetune_jax.reports.figures import canvas, glyphs
from finetune_jax.reports.figures.confusion_matrix import draw_confusion

NAMES = ["猫", "犬", "🐈 tom", "Käfer", "кот"]


def texts_of(figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.fixture
def only_dejavu(monkeypatch):
    from matplotlib.font_manager import fontManager

    fonts = [font for font in fontManager.ttflist if font.name.startswith(("DejaVu Sans", "Last Resort"))]
    monkeypatch.setattr(fontManager, "ttflist", fonts)
    glyphs._font_with.cache_clear()
    yield
    glyphs._font_with.cache_clear()


@pytest.mark.usefixtures("only_dejavu")
@pytest.mark.parametrize("format", canvas.FORMATS)
def test_names_without_a_font_are_numbered_with_a_legend_and_without_warnings(format):
    figure = draw_confusion(np.eye(5), NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        canvas.encode(figure, format)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["[1]", "[2]", "[3]", "Käfer", "кот"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == labels
    assert "[1] U+732B   [2] U+72AC   [3] cat tom" in texts_of(figure)


def test_names_keep_their_letters_where_a_font_has_them(monkeypatch):
    monkeypatch.setattr(glyphs, "_font_with", lambda letters: "DejaVu Serif")
    figure = draw_confusion(np.eye(5), NAMES)
    glyphs.make_readable(figure)
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == NAMES
    assert labels[0].get_fontfamily()[-1] == "DejaVu Serif"
    assert labels[3].get_fontfamily()[-1] != "DejaVu Serif"


def test_letters_that_stay_text_are_left_to_the_reader():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = canvas.encode(draw_confusion(np.eye(5), NAMES), "svg", text=True)
    assert all(name in svg.decode() for name in NAMES)
