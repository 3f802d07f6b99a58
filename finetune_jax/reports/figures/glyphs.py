"""Names in any script: in a font that has their letters, or numbered, with a legend below the figure.

matplotlib draws a box for a letter that its font lacks, and warns once for each.
"""

import functools
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

# Fonts of many scripts, as systems call them; others are tried after these.
_LIKELY = re.compile(
    r"CJK|Han Sans|Han Serif|WenQuanYi|Fallback|Gothic|YaHei|PingFang|Hiragino|Unicode|Emoji|Symbola", re.I
)
_UNNAMED = ("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH", "VARIATION SELECTOR", "ZERO WIDTH")
_MOST_LISTED = 40
_LISTED_IN_A_ROW = 4


def make_readable(figure: "Figure") -> None:
    """Give every text of a figure letters that can be drawn.

    Texts with letters of no installed font are replaced by numbers, and a legend tells the names of their letters.

    Args:
        figure: changed in place.
    """
    from matplotlib.text import Text

    numbers: dict[str, int] = {}
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = axis.get_ticklabels()
            shown = [_readable(label, numbers) for label in labels]
            # The formatter writes labels anew whenever the figure is drawn.
            if shown != [label.get_text() for label in labels]:
                axis.set_ticks(axis.get_ticklocs(), shown)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(_readable(text, numbers))
    if numbers:
        _add_legend(figure, numbers)


def _readable(text: "Text", numbers: dict[str, int]) -> str:
    """What a text shows, in a font that has its letters; its number where there is none."""
    name = text.get_text()
    missing = frozenset() if name.isascii() else _missing_from(tuple(text.get_fontfamily()), frozenset(name))
    if not missing:
        return name
    fallback = _font_with(missing)
    if fallback is None:
        return f"[{numbers.setdefault(name, len(numbers) + 1)}]"
    text.set_fontfamily([*text.get_fontfamily(), fallback])
    return name


def described(name: str) -> str:
    """A name by the Unicode names of its letters where these have any, else by their code points."""
    parts = []
    for letter in name:
        known = unicodedata.name(letter, "")
        if letter.isascii():
            parts.append(letter)
        else:
            unnamed = not known or known.startswith(_UNNAMED)
            parts.append(f" U+{ord(letter):04X} " if unnamed else f" {known.lower()} ")
    return " ".join("".join(parts).split())


@functools.lru_cache(maxsize=1024)
def _charmap(path: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(path).get_charmap())


def _missing_from(families: tuple[str, ...], letters: frozenset[str]) -> frozenset[str]:
    from matplotlib.font_manager import FontProperties, fontManager

    known: set[int] = set()
    for family in families:
        known |= _charmap(fontManager.findfont(FontProperties(family=[family])))
    return frozenset(letter for letter in letters if ord(letter) not in known and not letter.isspace())


@functools.lru_cache(maxsize=256)
def _font_with(letters: frozenset[str]) -> str | None:
    """Name of an installed font that has all of the letters."""
    from matplotlib.font_manager import fontManager

    fonts = sorted(
        fontManager.ttflist, key=lambda font: (not _LIKELY.search(font.name), font.name, font.fname)
    )
    for font in fonts:
        if "last resort" in font.name.lower():  # it has a box for every letter
            continue
        try:
            known = _charmap(font.fname)
        except (OSError, RuntimeError, ValueError):
            continue
        if all(ord(letter) in known for letter in letters):
            return font.name
    return None


def _add_legend(figure: "Figure", numbers: dict[str, int]) -> None:
    entries = [f"[{number}] {described(name)}" for name, number in numbers.items()]
    if len(entries) > _MOST_LISTED:
        entries = [*entries[:_MOST_LISTED], f"and {len(entries) - _MOST_LISTED} more"]
    rows = [entries[i : i + _LISTED_IN_A_ROW] for i in range(0, len(entries), _LISTED_IN_A_ROW)]
    figure.supxlabel("\n".join("   ".join(row) for row in rows), fontsize=7)
