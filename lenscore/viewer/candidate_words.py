"""The words of candidates, which the images of a run share, as scripts of many images each.

candidates/0003.js    lenscore.candidates(3, ...)    packed JSON {words, empty}
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any

import numpy as np
import numpy.typing as npt

from lenscore.readings.image_reading import Word
from lenscore.readings.words import token_word
from lenscore.viewer.script_bytes import packed
from storage_layouts.printable import is_visible

WORDS_A_FILE = 100_000
"""A file ends with the image that brings it so many words: about 1 MB, which a page reads at once."""
_BLANK = "\ufffd\u115f\u1160\u2800\u3164\uffa0"
"""Bytes that are no character, and letters and signs that have no shape: fillers of Hangul, an empty Braille cell."""
_EMPTY = ("P", "Z", "C", "Sm", "Sc", "Sk")  # Unicode categories: punctuation, blanks, controls, signs except emoji


class OncePerWord:
    """A value of each word. Readings of a run share their lists of words, which grow; each word is looked at once."""

    def __init__(self, value: Callable[[Word], Any], kind: npt.DTypeLike) -> None:
        self._value, self._kind = value, kind
        self._known: list[tuple[Sequence[Word], npt.NDArray[Any]]] = []

    def of(self, words: Sequence[Word]) -> npt.NDArray[Any]:
        """Returns the values of all words of a list."""
        at = next((at for at, (these, _) in enumerate(self._known) if these is words), len(self._known))
        known = self._known[at][1] if at < len(self._known) else np.zeros(0, self._kind)
        new = words[len(known) :]
        if new:
            known = np.append(known, np.fromiter(map(self._value, new), self._kind, len(new)))
        self._known[at : at + 1] = [(words, known)]
        return known

    def set_all(self, value: Any) -> None:
        """Give all words that were looked at the same value."""
        for _, values in self._known:
            values.fill(value)


class CandidateFiles:
    """Numbers the words of image after image, and makes the script of each file."""

    def __init__(self) -> None:
        self._texts, self._blanks = OncePerWord(_word_json, object), OncePerWord(lambda word: is_empty(word.text), bool)
        self._places = OncePerWord(lambda _: -1, np.int64)
        self.number = -1
        self._begin()

    def _begin(self) -> None:
        self._places.set_all(-1)
        self._words: list[str] = []
        self._empty: list[int] = []
        self.number += 1  # of the file that has the words of the next image

    def places(self, words: Sequence[Word], used: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns the places of some words of a list in the present file."""
        places = self._places.of(words)
        new = used[places[used] < 0]
        places[new] = len(self._words) + np.arange(len(new))
        self._empty += places[new[self._blanks.of(words)[new]]].tolist()
        self._words += self._texts.of(words)[new].tolist()
        return places[used]

    @property
    def is_full(self) -> bool:
        """Whether the present file should be written."""
        return len(self._words) >= WORDS_A_FILE

    def script(self) -> Callable[[], str]:
        """Returns what packs the script of the present file, and begins another one."""
        number, words, empty = self.number, self._words, self._empty
        self._begin()

        def script() -> str:
            data = f'{{"words":[{",".join(words)}],"empty":{json.dumps(empty)}}}'
            return f"lenscore.candidates({number},{packed(data.encode('ascii'))});\n"

        return script


def is_empty(text: str) -> bool:
    """Returns whether a word has only blanks, punctuation and bytes that are no character."""
    word = token_word(text)
    if word.isascii() and word.isalnum():  # most words, for which this is many times as fast
        return False
    return all(one in _BLANK or unicodedata.category(one).startswith(_EMPTY) for one in word)


def visible(text: str) -> str:
    """Returns the text; blanks and other characters without a shape become signs if it has nothing else."""
    if is_visible(text):
        return text
    signs = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(character, repr(character)[1:-1]) for character in text) or "(empty)"


def _word_json(word: Word) -> str:
    """JSON of [text], [text, token] or [text, token, before, mark, after]."""
    text, sentence, start, end = visible(word.text), word.sentence, word.start, word.end
    if sentence:
        parts = [text, word.token, sentence[:start], visible(sentence[start:end]), sentence[end:]]
    else:
        parts = [text, word.token] if word.token not in ("", word.text) else [text]
    return f"[{','.join(map(encode_basestring_ascii, parts))}]"
