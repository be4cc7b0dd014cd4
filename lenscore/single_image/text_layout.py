"""Lines of text in several colours and weights: measured, cut to a width, drawn. All lengths are inches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import matplotlib as mpl
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from lenscore.single_image.cut import shortened
from lenscore.single_image.fonts import Weight, drawable, families, without_remarks
from lenscore.single_image.style import FAINT, POINTS, SETTINGS, TEXT
from storage_layouts.printable import printable, printable_word

_MEASURING_DPI = 720


@dataclass(frozen=True)
class Run:
    """Text in one style. It is drawn unchanged; text from outside must go through `outside` first."""

    text: str
    colour: str = TEXT
    weight: Weight = "normal"
    points: float = POINTS

    @property
    def width(self) -> float:
        """Width in inches."""
        return _width(self.text, self.weight, self.points)


Line = tuple[Run, ...]

MORE = Run(" …", FAINT)
"""Replaces words that do not fit."""


def outside(text: str, weight: Weight = "normal", word: bool = False) -> str:
    """Returns text from outside with a visible escape for characters that no installed font has."""
    kind = printable_word if word else printable
    return kind(text, lambda character: drawable(character, weight))


def cut(text: str, width: float, weight: Weight = "normal", points: float = POINTS) -> str:
    """Returns as much of a text as fits into a width."""
    return shortened(text, lambda part: _width(part, weight, points) <= width)


def draw_line(figure: Figure, line: Line, x: float, y: float) -> None:
    """Draw a line that begins at x, with its base line y below the upper edge of the figure."""
    width, height = figure.get_size_inches()
    for run in line:
        if run.text.strip():
            figure.text(
                x / width,
                1 - y / height,
                run.text,
                color=run.colour,
                fontproperties=_font(run.weight, run.points),
                parse_math=False,  # dollars in a word do not begin a formula
                verticalalignment="baseline",
            )
        x += run.width


def wrapped(words: Sequence[Run], width: float, between: Run, most: int) -> list[Line]:
    """Returns whole words on at most ``most`` lines, with "…" after the last word if some are missing."""
    lines: list[list[Run]] = [[]]
    room = width
    for number, word in enumerate(words):
        taken = word.width + (between.width if lines[-1] else 0)
        last_line = len(lines) == most
        reserve = MORE.width if last_line and number < len(words) - 1 else 0
        if lines[-1] and taken + reserve > room:
            if last_line:
                lines[-1].append(MORE)
                break
            lines.append([])
            room, taken = width, word.width
        lines[-1] += [between, word] if lines[-1] else [word]
        room -= taken
    return [tuple(line) for line in lines if line]


@lru_cache(maxsize=1)
def _renderer() -> RendererAgg:
    return RendererAgg(16, 16, _MEASURING_DPI)


@lru_cache(maxsize=64)
def _font(weight: Weight, points: float) -> FontProperties:
    return FontProperties(family=list(families()), weight=weight, size=points)


@lru_cache(maxsize=1 << 14)
def _width(text: str, weight: Weight, points: float) -> float:
    # A renderer ignores the width of blanks at the ends.
    inner = text.strip(" ")
    blanks = len(text) - len(inner)
    wide = 0.0
    if inner:
        with without_remarks(), mpl.rc_context(SETTINGS):  # the settings of the drawing
            pixels, _, _ = _renderer().get_text_width_height_descent(inner, _font(weight, points), False)
        wide = pixels / _MEASURING_DPI
    return wide + blanks * 0.318 * points / 72  # DejaVu Sans' space, in ems
