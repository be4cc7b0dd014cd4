"""Fonts for words in any script: the installed families and their characters."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

Weight = Literal["normal", "bold"]

FALLBACKS = (
    "DejaVu Sans",  # comes with matplotlib, so that figures look alike everywhere
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans JP",
    "Noto Sans SC",
    "Noto Sans KR",
    "Source Han Sans",
    "IPAexGothic",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Noto Sans",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Bengali",
    "Noto Sans Tamil",
    "Noto Sans Thai",
    "Arial Unicode MS",
    "Noto Sans Symbols",
    "Noto Sans Symbols 2",
    "Noto Emoji",
    "Symbola",
    "Segoe UI Symbol",
    "Unifont",
)
"""Families in the order in which they are searched for a character."""


@lru_cache(maxsize=1)
def families() -> tuple[str, ...]:
    """Returns those of `FALLBACKS` that are installed."""
    installed = {font.name for font in fontManager.ttflist}
    return tuple(name for name in FALLBACKS if name in installed)


def drawable(character: str, weight: Weight = "normal") -> bool:
    """Returns whether one of the installed `families` has a glyph for a character in this weight."""
    return ord(character) in _characters(weight)


@contextmanager
def without_remarks() -> Iterator[None]:
    """Silence matplotlib's warning that a family has no bold face; the normal one is used then."""
    log = logging.getLogger("matplotlib.font_manager")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@lru_cache(maxsize=2)
def _characters(weight: Weight) -> frozenset[int]:
    with without_remarks():
        paths = {findfont(FontProperties(family=family, weight=weight)) for family in families()}
    return frozenset().union(*(get_font(path).get_charmap() for path in paths))
