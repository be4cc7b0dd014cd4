"""Where each word appears: over images, layers and lenses, as scripts that a page loads when it is asked.

    words/vocabulary.js   lenscore.vocabulary({...})   every word, the most frequent first, and which file knows more
    words/0007.js         lenscore.places(7, {...})    where the words of one stretch of the vocabulary appear

Words that differ by case alone are one. Whole numbers are packed as in `page_data.packed`. templates/word-index.js is
the reader.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lenscore.readings.image_reading import ImageReading, LensReading
from lenscore.readings.page_json import script_json
from lenscore.viewer.page_data import packed

PLACES_A_FILE = 50_000
"""About how many (word, image, layer, lens) a file holds: some 400 kB, which a browser reads at once."""


class WordIndex:
    """Collects the words of all images of a run, then writes the index.

    ``layers`` and ``lenses`` are those of the run; a cell is the number ``layer place * lenses + lens place``.
    """

    def __init__(self, layers: Sequence[int], lenses: Sequence[str]) -> None:
        self._layers = {layer: place for place, layer in enumerate(layers)}
        self._lenses = {lens: place for place, lens in enumerate(lenses)}
        self._numbers: dict[str, int] = {}
        self._number_of_text: dict[str, int] = {}
        self._cells: list[dict[str, npt.NDArray[Any]]] = []
        self._images: list[dict[str, npt.NDArray[Any]]] = []

    def add(self, image_id: int, reading: ImageReading) -> None:
        """Take the words of one image."""
        patches, k = len(reading.places), max(1, reading.top_k)
        if not patches:
            return
        codes = [self._codes(lens, reading.layers, patches, k) for lens in reading.lenses]
        # A word that a lens names twice on a patch counts once, with its better rank.
        said = np.unique(np.concatenate([*codes, np.zeros(0, np.int64)]))
        place, rank = np.divmod(said, k)
        first = np.r_[True, place[1:] != place[:-1]][: len(place)]
        place, rank = place[first], rank[first]
        cell, patch = np.divmod(place, patches)
        # In each cell the patch with the best rank stands for all: that is where a link leads.
        order = np.lexsort((patch, rank, cell))
        cells, starts, counts = np.unique(cell[order], return_index=True, return_counts=True)
        best = reading.places[patch[order][starts]]
        word, cell_number = np.divmod(cells, self._cell_count)
        self._cells.append(
            {
                "word": word.astype(np.int32),
                "image": np.full(len(word), image_id, np.int32),
                "cell": cell_number.astype(np.int16),
                "count": counts.astype(np.int32),
                **{name: best[:, i].astype(np.int16) for i, name in enumerate(("view", "row", "col"))},
            }
        )
        words, on_patches = np.unique(
            np.unique((cell // self._cell_count) * patches + patch) // patches, return_counts=True
        )
        self._images.append(
            {
                "word": words.astype(np.int32),
                "image": np.full(len(words), image_id, np.int32),
                "patches": on_patches.astype(np.int32),
            }
        )

    def write(self, folder: Path) -> None:
        """Write the scripts into a new folder."""
        folder.mkdir()
        images, cells = _joined(self._images, "word", "image", "patches"), _joined(self._cells, *_CELL_COLUMNS)
        words = list(self._numbers)
        patches = np.bincount(images["word"], weights=images["patches"], minlength=len(words)).astype(np.int64)
        used = np.flatnonzero(patches).tolist()
        order = sorted(used, key=lambda number: (-patches[number], words[number]))
        rank = np.zeros(len(words), np.int64)
        rank[order] = np.arange(len(order))
        images, cells = _sorted_by_word(images, rank), _sorted_by_word(cells, rank)
        cells_of_word = np.bincount(cells["word"], minlength=len(order))
        firsts = _file_starts(cells_of_word)
        vocabulary = {
            "words": [words[number] for number in order],
            "images": packed(np.bincount(images["word"], minlength=len(order))),
            "patches": packed(patches[order]),
            "firsts": firsts,
        }
        _write_script(folder / "vocabulary.js", f"lenscore.vocabulary({script_json(vocabulary)});\n")
        for number, (first, stop) in enumerate(zip(firsts, [*firsts, len(order)][1:], strict=True)):
            data = script_json(_places(images, cells, first, stop))
            _write_script(folder / f"{number:04d}.js", f"lenscore.places({number},{data});\n")

    @property
    def _cell_count(self) -> int:
        return max(1, len(self._layers) * len(self._lenses))

    def _codes(self, lens: LensReading, layers: Sequence[int], patches: int, k: int) -> npt.NDArray[np.int64]:
        """One number for each candidate: ((word * cells + cell) * patches + patch) * k + rank."""
        numbers = np.array([self._number(word.text) for word in lens.words] + [-1], np.int64)
        word = np.where(lens.which < 0, -1, numbers[lens.which])
        places = np.array([self._layers[layer] for layer in layers], np.int64) * len(self._lenses)
        cell = (places + self._lenses[lens.lens])[:, None, None]
        patch, rank = np.arange(patches)[None, :, None], np.arange(lens.which.shape[2])[None, None, :]
        codes = ((word * self._cell_count + cell) * patches + patch) * k + rank
        return codes[word >= 0]

    def _number(self, text: str) -> int:
        number = self._number_of_text.get(text)
        if number is None:
            word = folded(text)
            number = self._numbers.setdefault(word, len(self._numbers)) if word else -1
            self._number_of_text[text] = number
        return number


def folded(text: str) -> str:
    """A word without blanks around it and without regard to case; word-index.js does the same."""
    return unicodedata.normalize("NFC", text.strip().lower())


_CELL_COLUMNS = ("word", "image", "cell", "count", "view", "row", "col")


def _joined(parts: Sequence[Mapping[str, npt.NDArray[Any]]], *names: str) -> dict[str, npt.NDArray[Any]]:
    empty = np.zeros(0, np.int32)
    return {name: np.concatenate([part[name] for part in parts]) if parts else empty for name in names}


def _sorted_by_word(columns: dict[str, npt.NDArray[Any]], rank: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """The lines in the order of the vocabulary, and of the images within a word; "word" becomes that place."""
    word = rank[columns["word"]]
    order = np.argsort(word, kind="stable")
    return {name: (word if name == "word" else values)[order] for name, values in columns.items()}


def _file_starts(cells_of_word: npt.NDArray[np.int64]) -> list[int]:
    """The first word of each file, so that none holds many more than `PLACES_A_FILE`."""
    if not len(cells_of_word):
        return []
    file = (np.cumsum(cells_of_word) - cells_of_word) // PLACES_A_FILE
    starts: list[int] = np.flatnonzero(np.r_[True, file[1:] != file[:-1]]).tolist()
    return starts


def _places(images: dict[str, Any], cells: dict[str, Any], first: int, stop: int) -> dict[str, Any]:
    """Where the words from ``first`` up to ``stop`` appear: images of each word, and cells of each of these."""
    some = slice(*np.searchsorted(images["word"], [first, stop]))
    fine = slice(*np.searchsorted(cells["word"], [first, stop]))
    of_word = np.bincount(images["word"][some] - first, minlength=stop - first)
    # Lines of both tables stand in the same order of (word, image).
    keys = (
        table["word"][part].astype(np.int64) << 32 | table["image"][part]
        for table, part in ((images, some), (cells, fine))
    )
    image_keys, cell_keys = keys
    of_image = np.diff(np.r_[np.searchsorted(cell_keys, image_keys), len(cell_keys)])
    return {
        "first": first,
        "imagesOfWord": packed(of_word),
        "image": packed(images["image"][some]),
        "patches": packed(images["patches"][some]),
        "cellsOfImage": packed(of_image),
        **{name: packed(cells[name][fine]) for name in ("cell", "count", "view", "row", "col")},
    }


def _write_script(path: Path, text: str) -> None:
    path.write_text(text, encoding="ascii")
