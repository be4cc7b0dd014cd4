"""English nouns in singular and plural, so that "trees" is a right word for a tree."""

from __future__ import annotations

from lenscore.readings.words import folded
from storage_layouts.counts import plural

_IRREGULAR = {
    **{"child": "children", "person": "people", "foot": "feet", "tooth": "teeth", "goose": "geese", "mouse": "mice"},
    **{"ox": "oxen", "die": "dice", "louse": "lice", "cactus": "cacti"},
}
_SINGULARS = {plural: singular for singular, plural in _IRREGULAR.items()}
_NO_PLURALS = (
    *("atlas", "bus", "canvas", "chaos", "christmas", "gas", "iris", "lens", "mars", "news", "plus", "series", "yes"),
    *("species", "texas", "this", "was"),
)
"""Singulars with an s at the end that do not end in -ss, -us or -is."""
_SIBILANTS = ("s", "x", "z", "ch", "sh")


def word_forms(word: str) -> frozenset[str]:
    """A noun as it is, its plurals, and its singulars, without regard to case; of several words the last is inflected.

    There may be forms among them that no dictionary has ("knif").
    """
    word = folded(word)
    before, blank, last = word.rpartition(" ")
    return frozenset({word, *(before + blank + form for form in (*_plurals(last), *_singular(last)))} - {""})


def _plurals(word: str) -> list[str]:
    if len(word) < 2 or not word[-1].isalpha() or not word.isascii():
        return []
    if word in _IRREGULAR:
        return [_IRREGULAR[word]]
    if word.endswith("man") and word not in ("human", "german", "roman", "caiman"):
        return [f"{word[:-3]}men"]
    if word.endswith("fe"):
        return [f"{word[:-2]}ves", f"{word}s"]
    if word.endswith("f") and not word.endswith("ff"):
        return [f"{word[:-1]}ves", f"{word}s"]
    return [plural(word), f"{word}es"] if word.endswith("o") else [plural(word)]


def _singular(word: str) -> list[str]:
    if word in _SINGULARS:
        return [_SINGULARS[word]]
    if word.endswith("men") and len(word) > 3 and word not in ("omen", "semen", "specimen", "abdomen", "ramen"):
        return [f"{word[:-3]}man"]
    if word == "men":
        return ["man"]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")) or word in _NO_PLURALS:
        return []
    found = []
    if word.endswith("ies") and len(word) > 4:
        found.append(f"{word[:-3]}y")
    if word.endswith("ves"):
        found += [f"{word[:-3]}f", f"{word[:-3]}fe"]
    if word.endswith("es") and (word[:-2].endswith(_SIBILANTS) or (word[-3] == "o" and len(word) > 5)):  # but "toes"
        found.append(word[:-2])
    # "boxe" is no word, but "horse", "shoe" and "tie" are.
    return [*found, word[:-1]]
