"""The values of a large JSON file one at a time, so that it is never in memory as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from lenscore.user_files.text_lines import text_chunks
from storage_layouts.errors import InputError, first_line

_CHUNK = 1 << 20
_NOT_BLANK = re.compile(r"[^ \t\n\r]")


def json_values(path: Path) -> Iterator[tuple[str | None, int, Any]]:
    """Each value of the object or list that a file holds, as (its key, its place, the value).

    The key is None in a list. A list in an object is given entry by entry, with places from 1 on; before them comes
    (key, 0, []). Every other value of an object has the place 0. Raises InputError, naming the line, if the file is not
    JSON, or holds neither an object nor a list.
    """
    text = _Text(path)
    try:
        opening = text.sign()
        if opening == "[":
            yield from ((None, number, value) for number, value in _entries(text))
        elif opening == "{":
            for key in text.parts("}"):
                if not isinstance(key, str):
                    raise text.refusal("Expecting property name enclosed in double quotes")
                text.expect(":")
                if text.sign() == "[":
                    yield key, 0, []
                    yield from ((key, number, value) for number, value in _entries(text))
                else:
                    yield key, 0, text.value()
        else:
            text.value()
            raise InputError(f"{path}: JSON of one value, expected an object or a list")
        if text.sign():
            raise text.refusal("Extra data")
    except RecursionError:
        raise InputError(f"{path}: JSON that is nested too deeply") from None


def _entries(text: _Text) -> Iterator[tuple[int, Any]]:
    return enumerate(text.parts("]"), start=1)


class _Text:
    """The text of a file from where it has been read to, a part of it in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._chunks = text_chunks(path, _CHUNK)
        self._decoder = json.JSONDecoder()
        self._text, self._at, self._line = "", 0, 1

    def sign(self) -> str:
        """The next character that is not blank, which stays; "" at the end."""
        while True:
            found = _NOT_BLANK.search(self._text, self._at)
            self._at = found.start() if found else len(self._text)
            if found or not self._more():
                return self._text[self._at : self._at + 1]

    def expect(self, sign: str) -> None:
        """Read one character. Raises InputError for another one."""
        if self.sign() != sign:
            raise self.refusal(f"Expecting {sign!r} delimiter")
        self._at += 1

    def parts(self, closing: str) -> Iterator[Any]:
        """The values of an object or list, between commas, up to its end; of an object only the keys are read."""
        self._at += 1
        if self.sign() != closing:
            yield self.value()
            while self.sign() != closing:
                self.expect(",")
                yield self.value()
        self._at += 1

    def value(self) -> Any:
        """Read one value."""
        self.sign()
        size = _CHUNK
        while True:
            begin = self._at
            try:
                value, end = self._decoder.raw_decode(self._text, begin)
            except json.JSONDecodeError as error:
                if not self._more(size):
                    raise self.refusal(error.msg, error.pos - begin) from None
            except ValueError as error:  # a number of thousands of digits
                raise InputError(f"{self._path}: not readable as JSON ({first_line(error)})") from None
            else:
                # A number may go on: in a part that ends with 1e+ the decoder sees a 1.
                if end + 2 < len(self._text) or not self._more(size):
                    self._at += end - begin
                    return value
            size *= 2  # so that a value of any length is read in time linear in it

    def refusal(self, what: str, at: int | None = None) -> InputError:
        """An error about a place in the text in memory, by default the one that is read."""
        line = self._line + self._text.count("\n", 0, self._at if at is None else at)
        return InputError(f"{self._path}, line {line}: not JSON ({what})")

    def _more(self, size: int = 0) -> bool:
        """Read on, by default one part; False at the end of the file."""
        self._line += self._text.count("\n", 0, self._at)
        parts = [self._text[self._at :]]
        parts += islice(self._chunks, max(1, size // _CHUNK))
        self._text, self._at = "".join(parts), 0
        return len(parts) > 1
