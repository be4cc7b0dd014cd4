"""What is known of words: how concrete they are, their part of speech, and whether they name colour, shape or texture.

Published norms may not be shipped, so they are read from the user's files. In their place stand small lists that were
made for lenscore (``data/*.csv``): coarse, English, and only of some two thousand common words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lenscore.readings.words import folded
from lenscore.user_files.rows import read_table_file
from storage_layouts.errors import InputError

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
class WordList:
    """Words, as `lenscore.readings.words.folded` has them, and what is known of them.

    ``source`` says for people where it is from: `OWN`, or the name of the user's file.
    """

    source: str
    values: dict[str, float]


@dataclass(frozen=True)
class LabelledWords:
    """The same with labels instead of numbers; a word may have several."""

    source: str
    labels: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class WordLists:
    """The lists of a report.

    Attributes:
        concreteness: ratings from 1 (an idea) to 5 (a thing one can see or touch).
        parts_of_speech: one of `PARTS_OF_SPEECH` each.
        attributes: some of `ATTRIBUTES` each.

    """

    concreteness: WordList
    parts_of_speech: LabelledWords
    attributes: LabelledWords

    @property
    def has_own(self) -> bool:
        """Whether any of them is ours."""
        return OWN in (self.concreteness.source, self.parts_of_speech.source, self.attributes.source)

    @classmethod
    def read(
        cls, concreteness: Path | None = None, parts_of_speech: Path | None = None, attributes: Path | None = None
    ) -> WordLists:
        """The lists in the user's files, and ours where none is given.

        Raises InputError for a file that is not there, has other columns, or holds other values.
        """
        return cls(
            _read_concreteness(concreteness), _read_parts_of_speech(parts_of_speech), _read_attributes(attributes)
        )


def _read_concreteness(path: Path | None) -> WordList:
    file = path or _DATA / "concreteness.csv"
    where = f"--concreteness {file}"
    table = _columns(
        *(file, where, ("concreteness", "conc.m", "conc_m", "rating"), "Word and Conc.M"),
        "the norms are the supplement of Brysbaert, Warriner and Kuperman (2014), Behavior Research Methods 46, "
        "doi 10.3758/s13428-013-0403-5; save them as csv or tsv",
    )
    ratings = pd.to_numeric(table["value"], errors="coerce")
    wrong = ratings[~ratings.between(1, 5)].index
    if len(wrong):
        word, value = table.loc[wrong[0]]
        raise InputError(f"{where}: {str(word)[:50]!r} has {str(value)[:50]!r}; expected a rating from 1 to 5")
    values = dict(zip(table["word"][::-1], ratings[::-1].astype(float), strict=True))  # the first of several counts
    return WordList(path.name if path else OWN, values)


def _read_parts_of_speech(path: Path | None) -> LabelledWords:
    file = path or _DATA / "parts-of-speech.csv"
    where = f"--parts-of-speech {file}"
    table = _columns(
        *(file, where, ("part_of_speech", "pos", "upos", "dom_pos_subtlex"), "Word and Dom_PoS_SUBTLEX (or upos)"),
        "such a list is the SUBTLEX-US table with part of speech of Brysbaert, New and Keuleers (2012), Behavior "
        "Research Methods 44, doi 10.3758/s13428-012-0190-4; save it as csv or tsv",
    )
    parts = table["value"].map(_key).map(_PART_OF)
    if parts.notna().sum() < len(parts) / 2:
        value = table["value"][parts.isna()].iloc[0]
        raise InputError(f"{where}: found {str(value)[:50]!r}; expected parts of speech such as noun, verb, adj or ADP")
    labels: dict[str, tuple[str, ...]] = {
        word: (part,) for word, part in zip(table["word"][::-1], parts.fillna("other")[::-1], strict=True)
    }
    return LabelledWords(path.name if path else OWN, labels)


def _read_attributes(path: Path | None) -> LabelledWords:
    file = path or _DATA / "attributes.csv"
    where = f"--attributes {file}"
    table = _columns(file, where, ("attribute", "attributes", "kind"), "word and attribute", "one line for each pair")
    names = table["value"].map(_key).map(_ATTRIBUTE_OF)
    if names.isna().any():
        value = table["value"][names.isna()].iloc[0]
        raise InputError(f"{where}: found {str(value)[:50]!r}; expected colour, shape or texture")
    labels: dict[str, tuple[str, ...]] = {}
    for word, name in zip(table["word"], names, strict=True):
        labels[word] = tuple(dict.fromkeys((*labels.get(word, ()), name)))
    return LabelledWords(path.name if path else OWN, labels)


def _columns(file: Path, where: str, names: Sequence[str], expected: str, remedy: str) -> pd.DataFrame:
    """The columns ``word`` (`folded`) and ``value`` of a table, by the names that they may have."""
    if not file.is_file():
        raise InputError(f"{where}: no such file; {remedy}")
    table = read_table_file(file, where)
    chosen = [_first_of(table.columns, choices) for choices in (_WORD_COLUMNS, names)]
    if None in chosen or table.empty:
        found = ", ".join(str(name)[:50] for name in list(table.columns)[:8]) if len(table) else "no lines"
        raise InputError(f"{where}: found {found}; expected columns such as {expected}; {remedy}")
    pair = table[chosen].set_axis(["word", "value"], axis="columns")
    return pair.assign(word=pair["word"].astype(str).map(folded))


def _first_of(columns: Iterable[object], choices: Sequence[str]) -> object | None:
    return next((column for column in columns if str(column).strip().casefold() in choices), None)


def _key(value: object) -> str:
    return "_".join(str(value).casefold().split())
