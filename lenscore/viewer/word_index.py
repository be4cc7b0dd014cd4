"""Where each word appears, by image, layer and lens, as scripts that a page loads on demand.

    words/vocabulary.js   lenscore.vocabulary({...}, ...)   every word, the most frequent first, and where files begin
    words/0007.js         lenscore.places({...}, ...)       where the words of one part of the vocabulary appear

Words that differ only in case are one. Numbers are `script_bytes.PackedArrays`. templates/data/word-index.js reads
the files.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lenscore.readings.image_reading import ImageReading, LensReading, Word
from lenscore.readings.page_json import script_json
from lenscore.viewer.candidate_words import OncePerWord
from lenscore.viewer.script_bytes import PackedArrays, packed, script_file

PLACES_A_FILE = 50_000
"""About how many (word, image, layer, lens) a file holds: some 400 kB, which a browser reads at once."""
_LETTERS = re.compile(r"[^\W\d_]{3}")
_OF_CELLS = {"cell": np.int16, "count": np.int32, "view": np.int16, "row": np.int16, "col": np.int16}
_OF_IMAGES = dict.fromkeys(("image_word", "image", "patches", "cells"), np.int32)
"""Columns of millions of lines: one for each word, image, layer and lens, and one for each word and image."""


class WordIndex:
    """Collects the words of all images of a run and writes the index.

    ``layers`` and ``lenses`` are those of the run; a cell is the number ``layer place * lenses + lens place``.
    """

    def __init__(self, layers: Sequence[int], lenses: Sequence[str]) -> None:
        self._layers = {layer: place for place, layer in enumerate(layers)}
        self._lenses = {lens: place for place, lens in enumerate(lenses)}
        self._numbers: dict[str, int] = {}
        self._number_of = OncePerWord(self._number, np.int64)
        # Bytes that grow in place: the arrays of single images would take their memory twice when they are joined.
        self._columns = {name: bytearray() for name in _OF_CELLS | _OF_IMAGES}

    def add(self, image_id: int, reading: ImageReading) -> None:
        """Add the words of one image."""
        patches, k = len(reading.places), max(1, reading.top_k)
        if not patches:
            return
        codes = [self._codes(lens, reading.layers, patches, k) for lens in reading.lenses]
        # A word that is twice among the candidates of a patch counts once, with its better rank.
        found = np.sort(np.concatenate([*codes, np.zeros(0, np.int64)]))
        place = found // k
        found = found[_is_first(place)]
        cell, patch_and_rank = np.divmod(found, patches * k)
        starts = np.flatnonzero(_is_first(cell))
        # A link to a cell leads to its patch with the best rank; of equal ones to the first.
        patch, rank = np.divmod(patch_and_rank, k)
        best = np.minimum.reduceat(rank * patches + patch, starts) % patches if len(starts) else starts
        word, cell_number = np.divmod(cell[starts], self._cell_count)
        view, row, col = reading.places[best].T
        on_patch = _distinct(cell // self._cell_count * patches + patch)
        words = on_patch // patches
        first = np.flatnonzero(_is_first(words))
        added = {
            "cell": cell_number,
            "count": np.diff(starts, append=len(cell)),
            **{"view": view, "row": row, "col": col},
            "image_word": words[first],
            "image": np.full(len(first), image_id),
            "patches": np.diff(first, append=len(words)),
            "cells": np.diff(np.flatnonzero(_is_first(word)), append=len(word)),
        }
        for name, kind in (_OF_CELLS | _OF_IMAGES).items():
            self._columns[name] += added[name].astype(kind).tobytes()

    def write(self, folder: Path) -> str:
        """Write the scripts into a new folder; returns the most frequent word with three letters in a row, or ""."""
        folder.mkdir()
        image_word, image, patches, cells = (
            np.frombuffer(self._columns.pop(name), kind) for name, kind in _OF_IMAGES.items()
        )
        words = list(self._numbers)
        patches_of_word = np.bincount(image_word, patches, minlength=len(words)).astype(np.int64)
        counts = patches_of_word.tolist()
        found = np.flatnonzero(patches_of_word).tolist()
        order = sorted(found, key=lambda number: (-counts[number], words[number]))
        rank = np.zeros(len(words), np.int32)
        rank[order] = np.arange(len(order))
        # The order of the vocabulary, and of the images within a word. (In few arrays: each has millions of numbers.)
        of_word = rank[image_word]
        del image_word
        images_of_word = np.bincount(of_word, minlength=len(order))
        by_word = np.argsort(of_word, kind="stable")
        del of_word
        first_cell = np.cumsum(cells)
        first_cell -= cells
        first_cell = first_cell[by_word]
        image, patches, cells = image[by_word], patches[by_word], cells[by_word]
        del by_word
        last_image = np.cumsum(images_of_word)
        last_cell = np.concatenate([[0], np.cumsum(cells)])[last_image]
        firsts = _file_starts(np.diff(last_cell, prepend=0))
        arrays = PackedArrays()
        vocabulary = {
            "images": arrays.add(images_of_word),
            "patches": arrays.add(patches_of_word[order]),
            "firsts": firsts,
        }
        ordered = packed(script_json([words[number] for number in order]).encode("ascii"))
        script = f"lenscore.vocabulary({script_json(vocabulary)},{arrays.packed()},{ordered});\n"
        (folder / "vocabulary.js").write_bytes(script_file(script))
        of_cells = {name: np.frombuffer(self._columns[name], kind) for name, kind in _OF_CELLS.items()}
        for number, (first, stop) in enumerate(zip(firsts, [*firsts, len(order)][1:], strict=True)):
            lines = slice(last_image[first] - images_of_word[first], last_image[stop - 1])
            count = cells[lines]
            at = np.repeat(first_cell[lines] - (np.cumsum(count) - count), count) + np.arange(count.sum())
            arrays = PackedArrays()
            places = {
                "number": number,
                "first": first,
                "imagesOfWord": arrays.add(images_of_word[first:stop]),
                "image": arrays.add(image[lines]),
                "patches": arrays.add(patches[lines]),
                "cellsOfImage": arrays.add(count),
                **{name: arrays.add(values[at]) for name, values in of_cells.items()},
            }
            script = f"lenscore.places({script_json(places)},{arrays.packed()});\n"
            (folder / f"{number:04d}.js").write_bytes(script_file(script))
        return next((words[number] for number in order if _LETTERS.search(words[number])), "")

    @property
    def _cell_count(self) -> int:
        return max(1, len(self._layers) * len(self._lenses))

    def _codes(self, lens: LensReading, layers: Sequence[int], patches: int, k: int) -> npt.NDArray[np.int64]:
        """Integer codes of the candidates: ((word * cells + cell) * patches + patch) * k + rank."""
        word = np.append(self._number_of.of(lens.words), -1)[lens.which]
        places = np.array([self._layers[layer] for layer in layers], np.int64) * len(self._lenses)
        cell = (places + self._lenses[lens.lens])[:, None, None]
        patch, rank = np.arange(patches)[None, :, None], np.arange(lens.which.shape[2])[None, None, :]
        codes = ((word * self._cell_count + cell) * patches + patch) * k + rank
        return codes[word >= 0]

    def _number(self, word: Word) -> int:
        text = folded(word.text)
        return self._numbers.setdefault(text, len(self._numbers)) if text else -1


def _is_first(ordered: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each value is the first of its kind."""
    return np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)]


def _distinct(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The distinct values, ascending: np.unique by sorting, for its hashing (NumPy 2.4) is 30 times as slow here."""
    ordered = np.sort(values)
    return ordered[_is_first(ordered)]


def folded(text: str) -> str:
    """Returns a word in lower case and without surrounding blanks, as word-index.js does."""
    return unicodedata.normalize("NFC", text.strip().lower())


def _file_starts(cells_of_word: npt.NDArray[Any]) -> list[int]:
    """The first word of each file, such that none holds many more than `PLACES_A_FILE`."""
    if not len(cells_of_word):
        return []
    file = (np.cumsum(cells_of_word) - cells_of_word) // PLACES_A_FILE
    starts: list[int] = np.flatnonzero(_is_first(file)).tolist()
    return starts
