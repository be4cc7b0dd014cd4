"""Which words of a text count as nouns, and which words stand for the same thing."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lenscore.judging.truth_files.word_forms import word_forms
from lenscore.readings.words import WORD, folded
from lenscore.real_world.artwork_scenes import NOUNS as NOUNS_OF_SCENES
from lenscore.shapes.vocabulary import NOUNS as NOUNS_OF_SHAPES
from lenscore.statistics.word_lists import WordLists
from lenscore.user_files.text_lines import Lines, single_lines
from storage_layouts.errors import InputError

LISTS = ("common", "shapes", "real")
"""Lists that come with lenscore: the nouns of its list of common words, and those of the two worlds of the demo."""


@dataclass(frozen=True)
class Nouns:
    """Nouns by their name, each with all words that stand for it: singular, plural, synonyms (`folded`)."""

    forms: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, spec: str) -> Nouns:
        """One of `LISTS`, or a file with a noun in each line, followed by its synonyms after commas.

        The file is that of CHAIR (Rohrbach et al., EMNLP 2018). Raises InputError for a file without nouns.
        """
        if spec == "common":
            parts = WordLists.read().parts_of_speech.values
            common = [word for word, kinds in parts.items() if kinds == ("noun",)]
            return cls.grouped([word] for word in sorted(common, key=lambda word: (len(word), word)))
        if spec == "shapes":
            return cls({name: frozenset(map(folded, noun.words)) for name, noun in NOUNS_OF_SHAPES.items()})
        if spec == "real":
            with NOUNS_OF_SCENES.open(encoding="utf-8", newline="") as file:
                return cls.grouped([line["noun"], *line["synonyms"].split()] for line in csv.DictReader(file))
        path = Path(spec)
        if not path.is_file():
            raise InputError(f"--nouns {path}: no such file; expected {', '.join(LISTS)}, or a file")
        lines = (
            [word for word in map(folded, line.split(",")) if word] for line in single_lines(Lines(path, "strict"))
        )
        nouns = cls.grouped(line for line in lines if line)
        if not nouns.forms:
            raise InputError(f"--nouns {path}: is empty; expected a noun in each line, with its synonyms after commas")
        return nouns

    @classmethod
    def grouped(cls, lines: Iterable[Sequence[str]]) -> Nouns:
        """Nouns with their synonyms; a noun that is a form of an earlier one adds its words to that.

        A word of several nouns ("fruit" of apple and pear) stands for none of them, unless it is the name of one.
        """
        forms: dict[str, frozenset[str]] = {}
        names: dict[str, str] = {}
        for words in lines:
            first = folded(words[0])
            of_first = word_forms(first)
            name = next((names[form] for form in (first, *sorted(of_first)) if form in names), first)
            names |= dict.fromkeys(of_first, name)
            forms[name] = frozenset().union(forms.get(name, ()), *map(word_forms, words))
        nouns_with = Counter(form for of_noun in forms.values() for form in of_noun)

        def is_own(form: str, noun: str) -> bool:
            return names[form] == noun if form in names else nouns_with[form] == 1

        return cls({noun: frozenset(form for form in all_ if is_own(form, noun)) for noun, all_ in forms.items()})

    @property
    def hash(self) -> str:
        """Of the nouns and their words, in any order."""
        forms = {noun: sorted(forms) for noun, forms in self.forms.items()}
        return hashlib.sha256(json.dumps(forms, sort_keys=True).encode()).hexdigest()[:16]

    def with_compounds(self, things: Iterable[frozenset[str]]) -> Nouns:
        """These and the names of several words that things have, so that a "hot dog" is not read as a dog.

        They stand for the noun that another name of the thing stands for, or else are nouns of their own. `things` are
        all names of each, in singular and plural. Names without a noun in them are left out: texts are not misread.
        """
        added: dict[str, list[str]] = {}
        for words in sorted(map(sorted, set(things))):
            known = next((self._names[word] for word in words if word in self._names), "")
            added.setdefault(known, []).extend(
                word
                for word in words
                if " " in word and word not in self._names and any(part in self._names for part in word.split())
            )
        of_own = Nouns.grouped([word] for word in sorted(added.pop("", ()), key=lambda word: (len(word), word)))
        more = {noun: self.forms[noun] | set(words) - set(of_own.forms) for noun, words in added.items()}
        return Nouns({**self.forms, **more, **of_own.forms})

    def has_single_word(self, noun: str) -> bool:
        """Whether a patch can say a noun: no lens says several words ("traffic light")."""
        return any(" " not in form for form in self.forms[noun])

    def in_text(self, text: str) -> list[tuple[str, int, int]]:
        """The nouns of a text: name, and start and end of the characters; of nouns in one another the longest."""
        words = [match.span() for match in WORD.finditer(text)]
        found, place = [], 0
        while place < len(words):
            for count in range(min(self._longest, len(words) - place), 0, -1):
                start, end = words[place][0], words[place + count - 1][1]
                name = self._names.get(folded(text[start:end]))
                if name is not None:
                    found.append((name, start, end))
                    break
            place += count if name is not None else 1
        return found

    @cached_property
    def _names(self) -> dict[str, str]:
        return {form: name for name, forms in self.forms.items() for form in forms}

    @cached_property
    def _longest(self) -> int:
        return max(len(form.split()) for form in self._names)
