"""Untrusted text, escaped such that it can be printed or drawn without affecting the text around it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

_BLANKS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
_IGNORABLE = {"\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", *map(chr, range(0xFE00, 0xFE10))}
"""Characters that only join or vary their neighbours; invisible if the font does not support them."""


def printable(text: str, drawable: Callable[[str], bool] = lambda character: True) -> str:
    r"""Replace characters that cannot be shown by an escape: NUL by \x00, a bidi override by \u202e.

    ``drawable`` says whether the font has a glyph for a character.
    """
    return "".join(_shown(character, drawable) for character in text)


def printable_lines(text: str) -> str:
    """Like `printable`, but line ends stay."""
    return "\n".join(map(printable, text.split("\n")))


def is_visible(text: str) -> bool:
    """Whether a text has more than blanks, controls and characters that only join or vary their neighbours."""
    if text.isalnum():  # most words, for which this is many times as fast
        return True
    unseen = ("Z", "Cc", "Cf")
    return any(one not in _IGNORABLE and not unicodedata.category(one).startswith(unseen) for one in text)


def printable_word(text: str, drawable: Callable[[str], bool] = lambda character: True) -> str:
    """Like `printable`, but a word in which nothing is visible is replaced by symbols."""
    if is_visible(text):
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
