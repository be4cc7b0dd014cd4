"""The words of one lens for one patch at one layer, as lines of a given width."""

from __future__ import annotations

import unicodedata

from lenscore.readings.image_reading import LensReading, Word
from lenscore.single_image.cut import cut_around
from lenscore.single_image.style import FAINT, SMALL_POINTS, TEXT
from lenscore.single_image.text_layout import MORE, Line, Run, cut, outside, wrapped

_LONGEST = 400
"""Characters of a sentence that are laid out on each side of the token: more than any line holds."""
_LONGEST_WORD = 1.1
"""Inches; a longer word in a list is cut."""


def has_sentences(lens: LensReading) -> bool:
    """Returns whether the words of the lens have sentences."""
    return any(word.sentence for word in lens.words)


def lens_lines(lens: LensReading, layer: int, patch: int, width: float, colour: str, most: int) -> list[Line]:
    """Returns the best sentences, one a line, with the token in bold and the contextual layer; or the best words.

    Args:
        lens: the lens.
        layer: index in the reading.
        patch: index in the reading.
        width: of a line in inches.
        colour: of the words.
        most: the maximum number of lines.

    """
    best = [lens.words[one] for one in lens.which[layer, patch].tolist() if one >= 0]
    if not has_sentences(lens):
        longest = min(width - MORE.width, _LONGEST_WORD)
        words = [Run(cut(outside(word.text, word=True), longest), colour) for word in best]
        return wrapped(words, width, Run(" · ", FAINT), most)
    layers: dict[Word, set[int]] = {}  # one row may be a candidate from several contextual layers
    for rank, word in enumerate(best):
        at = set() if lens.contextual_layers is None else {int(lens.contextual_layers[layer, patch, rank])}
        layers.setdefault(word, set()).update(at)
    lines = []
    for word, found in list(layers.items())[:most]:
        badge = Run("".join(f" L{one}" for one in sorted(found)), FAINT, points=SMALL_POINTS)
        lines.append((*sentence_line(word, width - badge.width, colour), badge))
    return lines


def sentence_line(word: Word, width: float, colour: str) -> Line:
    """Returns a sentence on one line with its token in bold, cut around the token if it is too long."""
    if not word.sentence:
        return (Run(cut(outside(word.text, "bold", word=True), width, "bold"), colour, "bold"),)
    if _from_right_to_left(word.sentence):  # three pieces drawn from left to right would reverse the sentence
        head = Run(cut(outside(word.text, "bold", word=True), width / 2, "bold"), colour, "bold")
        gap = Run("  ")
        return (head, gap, Run(cut(outside(word.sentence[:_LONGEST]), width - head.width - gap.width)))
    start, end = word.start, word.end
    before = ("…" if start > _LONGEST else "") + outside(word.sentence[max(start - _LONGEST, 0) : start])
    mark = word.sentence[start : min(end, start + 4 * _LONGEST)]
    mark = outside(mark, "bold", word=bool(mark))
    after = outside(word.sentence[end : end + _LONGEST]) + ("…" if len(word.sentence) - end > _LONGEST else "")

    def line(parts: tuple[str, str, str]) -> Line:
        return (Run(parts[0], TEXT), Run(parts[1], colour, "bold"), Run(parts[2], TEXT))

    def fits(parts: tuple[str, str, str]) -> bool:
        return sum(run.width for run in line(parts)) <= width

    return line(cut_around(before, mark, after, fits))


def _from_right_to_left(text: str) -> bool:
    return any(unicodedata.bidirectional(character) in ("R", "AL") for character in text[: 4 * _LONGEST])
