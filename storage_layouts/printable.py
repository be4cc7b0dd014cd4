"""Text from outside that can be printed or drawn without disturbing what stands around it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

_BLANKS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
_IGNORABLE = {"\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", *map(chr, range(0xFE00, 0xFE10))}
"""Marks that only join or vary their neighbours: they are not seen where a font does not know them."""


def printable(text: str, drawable: Callable[[str], bool] = lambda character: True) -> str:
    r"""The text with everything that cannot be shown as a visible escape: NUL as \x00, a bidi override as \u202e.

    ``drawable`` says of other characters whether there is a glyph for them.
    """
    return "".join(_shown(character, drawable) for character in text)


def printable_lines(text: str) -> str:
    """The same for text of several lines, whose line ends are meant as such."""
    return "\n".join(map(printable, text.split("\n")))


def printable_word(text: str, drawable: Callable[[str], bool] = lambda character: True) -> str:
    """The same; a word of nothing but blanks becomes signs, so that a reader sees it."""
    if text.strip():
        return printable(text, drawable)
    return "".join(_BLANKS.get(character) or _escape(character) for character in text) or "(empty)"


def _shown(character: str, drawable: Callable[[str], bool]) -> str:
    if character.isspace():
        return " " if character in " \xa0" or unicodedata.category(character) == "Zs" else _BLANKS.get(character, " ")
    if character in _IGNORABLE:
        return character if drawable(character) else ""
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") or not drawable(character):
        return _escape(character)
    return character


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
