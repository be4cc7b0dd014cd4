"""The words that stand for a patch: those that LatentLens found there, and those shortly before them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

from lenscore.index.row_words import RowWord
from lenscore.readings.words import WORD, folded, word_span

BEFORE = 3
"""Words before a found word that belong to its phrase: "large dotted red circle"."""
MOST = 8
"""Words of a patch at most."""
_BREAK = re.compile(r"[^\w\s'’-]")


@dataclass(frozen=True)
class PatchWords:
    """Words for new sentences, `folded`, with weights above 0: all, and those that were found themselves."""

    words: Mapping[str, float]
    found: Mapping[str, float]


def found_word(row: RowWord) -> str:
    """The whole word of a row, `folded`; "" for a row that is no word."""
    start, end = word_span(row.sentence, row.start, row.end)
    word = folded(row.sentence[start:end])
    return word if WORD.fullmatch(word) else ""


def phrase_of(row: RowWord) -> str:
    """The whole word of a row with up to `BEFORE` words before it, without punctuation between them.

    What comes after a word does not change its state in a causal model.
    """
    start, end = word_span(row.sentence, row.start, row.end)
    before = _BREAK.split(row.sentence[:start])[-1]
    first = [match.start() for match in WORD.finditer(before)][-BEFORE:]
    return row.sentence[start - len(before) + first[0] : end] if first else row.sentence[start:end]


def words_of_patches(candidates: Sequence[Sequence[RowWord]]) -> list[PatchWords]:
    """The words of each patch from its candidates, in any order: at most `MOST`, by tf-idf.

    The frequency of a word at a patch is the number of candidates in whose phrase it stands; words of most patches
    ("a") have little weight. Of equal ones the first in the alphabet count. A patch whose candidates are no words has
    none.
    """
    counted: list[Counter[str]] = []
    found: list[set[str]] = []
    for rows in candidates:
        frequency = Counter[tuple[str, str]]((found_word(row), folded(phrase_of(row))) for row in rows)
        words = Counter[str]()
        for (word, phrase), times in frequency.items():
            for other in set(WORD.findall(phrase)) if word else ():
                words[other] += times
        counted.append(words)
        found.append({word for word, _ in frequency if word})
    patches_with = Counter(word for words in counted for word in words)

    described = []
    for words, own in zip(counted, found, strict=True):
        weight = {word: times * log((1 + len(counted)) / patches_with[word]) for word, times in words.items()}
        best = {word: weight[word] for word in sorted(weight, key=lambda word: (-weight[word], word))[:MOST]}
        described.append(PatchWords(best, {word: weight[word] for word in best if word in own} or best))
    return described
