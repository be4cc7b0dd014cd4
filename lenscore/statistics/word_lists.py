"""Properties of words: concreteness, part of speech, and whether they name a colour, a shape or a texture.

Published norms may not be redistributed, so they are read from the user's files. The defaults are small lists made for
lenscore (``data/*.csv``): coarse, English, and of some two thousand common words.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import pandas as pd

from lenscore.readings.words import folded
from lenscore.user_files.rows import read_table_file
from storage_layouts.errors import InputError

Value = TypeVar("Value")
OWN = "our own small list"
ATTRIBUTES = ("colour", "shape", "texture")
PARTS_OF_SPEECH = ("noun", "proper noun", "verb", "adjective", "adverb", "number", "function word", "other")

_DATA = Path(__file__).parent / "data"
_WORD_COLUMNS = ("word", "words", "lemma", "form")
_SPELLINGS = {
    "noun": "noun n",
    "proper noun": "propn name proper_noun",
    "verb": "verb v",
    "adjective": "adj adjective",
    "adverb": "adv adverb",
    "number": "num number numeral",
    "function word": "function_word adp aux cconj conj conjunction sconj det determiner article preposition pron "
    "pronoun part particle to not ex",
    "other": "other x intj interjection letter punct sym unclassified #n/a",
}
_PART_OF = {spelling: part for part, names in _SPELLINGS.items() for spelling in names.split()}
_ATTRIBUTE_OF = {"color": "colour", **{name: name for name in ATTRIBUTES}}


@dataclass(frozen=True)
class WordList(Generic[Value]):
    """A property of words, keyed by `lenscore.readings.words.folded`; ``source`` is `OWN` or the file's name."""

    source: str
    values: dict[str, Value]


@dataclass(frozen=True)
class WordLists:
    """The lists of a report.

    Attributes:
        concreteness: ratings from 1 (an idea) to 5 (a thing that can be seen or touched).
        parts_of_speech: one of `PARTS_OF_SPEECH` for each word.
        attributes: one or more of `ATTRIBUTES` for each word.

    """

    concreteness: WordList[float]
    parts_of_speech: WordList[tuple[str, ...]]
    attributes: WordList[tuple[str, ...]]

    @property
    def has_own(self) -> bool:
        """Whether any of the lists is one of the defaults."""
        return OWN in (self.concreteness.source, self.parts_of_speech.source, self.attributes.source)

    @classmethod
    def read(
        cls, concreteness: Path | None = None, parts_of_speech: Path | None = None, attributes: Path | None = None
    ) -> WordLists:
        """Read the user's files, or the default lists.

        Raises InputError if a file is missing, or has wrong columns or values.
        """
        if not (concreteness or parts_of_speech or attributes):
            return _own()
        return _lists(concreteness, parts_of_speech, attributes)


def _lists(concreteness: Path | None, parts_of_speech: Path | None, attributes: Path | None) -> WordLists:
    return WordLists(
        _read_concreteness(concreteness), _read_parts_of_speech(parts_of_speech), _read_attributes(attributes)
    )


@functools.cache
def _own() -> WordLists:
    return _lists(None, None, None)


def _read_concreteness(path: Path | None) -> WordList[float]:
    source, where, table = _read(
        *(path, "concreteness", ("concreteness", "conc.m", "conc_m", "rating"), "Word and Conc.M"),
        "the norms are the supplement of Brysbaert, Warriner and Kuperman (2014), Behavior Research Methods 46, "
        "doi 10.3758/s13428-013-0403-5; save them as csv or tsv",
    )
    ratings = pd.to_numeric(table["value"], errors="coerce")
    wrong = ratings[~ratings.between(1, 5)].index
    if len(wrong):
        word, value = table.loc[wrong[0]]
        raise InputError(f"{where}: {str(word)[:50]!r} has {str(value)[:50]!r}; expected a rating from 1 to 5")
    # Reversed, so that the first of several ratings of a word counts.
    return WordList(source, dict(zip(table["word"][::-1], ratings[::-1].astype(float), strict=True)))


def _read_parts_of_speech(path: Path | None) -> WordList[tuple[str, ...]]:
    source, where, table = _read(
        *(path, "parts-of-speech", ("part_of_speech", "pos", "upos", "dom_pos_subtlex")),
        "Word and Dom_PoS_SUBTLEX (or upos)",
        "such a list is the SUBTLEX-US table with part of speech of Brysbaert, New and Keuleers (2012), Behavior "
        "Research Methods 44, doi 10.3758/s13428-012-0190-4; save it as csv or tsv",
    )
    parts = table["value"].map(_key).map(_PART_OF)
    if parts.notna().sum() < len(parts) / 2:
        value = table["value"][parts.isna()].iloc[0]
        raise InputError(f"{where}: found {str(value)[:50]!r}; expected parts of speech such as noun, verb, adj or ADP")
    pairs = zip(table["word"][::-1], parts.fillna("other")[::-1], strict=True)
    return WordList(source, {word: (part,) for word, part in pairs})


def _read_attributes(path: Path | None) -> WordList[tuple[str, ...]]:
    names = ("attribute", "attributes", "kind")
    source, where, table = _read(path, "attributes", names, "word and attribute", "one line for each pair")
    attributes = table["value"].map(_key).map(_ATTRIBUTE_OF)
    if attributes.isna().any():
        value = table["value"][attributes.isna()].iloc[0]
        raise InputError(f"{where}: found {str(value)[:50]!r}; expected colour, shape or texture")
    by_word = attributes.groupby(table["word"]).unique()
    return WordList(source, {str(word): tuple(names) for word, names in by_word.items()})


def _read(
    path: Path | None, flag: str, names: Sequence[str], expected: str, remedy: str
) -> tuple[str, str, pd.DataFrame]:
    """Read a user's file, or the default list: the source, the start of messages, and the columns word and value.

    ``names`` are the accepted names of the value column; ``expected`` and ``remedy`` end the message of InputError.
    """
    file = path or _DATA / f"{flag}.csv"
    where = f"--{flag} {file}"
    if not file.is_file():
        raise InputError(f"{where}: no such file; {remedy}")
    table = read_table_file(file, where)
    columns = [
        next((column for column in table.columns if str(column).strip().casefold() in choices), None)
        for choices in (_WORD_COLUMNS, names)
    ]
    if None in columns or table.empty:
        found = ", ".join(str(name)[:50] for name in list(table.columns)[:8]) if len(table) else "no lines"
        raise InputError(f"{where}: found {found}; expected columns such as {expected}; {remedy}")
    pair = table[columns].set_axis(["word", "value"], axis="columns")
    return path.name if path else OWN, where, pair.assign(word=pair["word"].astype(str).map(folded))


def _key(value: object) -> str:
    return "_".join(str(value).casefold().split())
