"""Where each word appears, by image, layer and lens, as scripts that a page loads on demand.

    words/vocabulary.js   lenscore.vocabulary({...})   every word, the most frequent first, and where files begin
    words/0007.js         lenscore.places(7, {...})    where the words of one part of the vocabulary appear

Words that differ only in case are one. Integers are packed as in `page_data.packed`. templates/data/word-index.js reads
the files.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenscore.readings.image_reading import ImageReading, LensReading
from lenscore.readings.page_json import script_json
from lenscore.viewer.page_data import packed

PLACES_A_FILE = 50_000
"""About how many (word, image, layer, lens) a file holds: some 400 kB, which a browser reads at once."""
_IMAGE_COLUMNS = ("word", "image", "patches")
_CELL_COLUMNS = ("word", "image", "cell", "count", "view", "row", "col")


class WordIndex:
    """Collects the words of all images of a run and writes the index.

    ``layers`` and ``lenses`` are those of the run; a cell is the number ``layer place * lenses + lens place``.
    """

    def __init__(self, layers: Sequence[int], lenses: Sequence[str]) -> None:
        self._layers = {layer: place for place, layer in enumerate(layers)}
        self._lenses = {lens: place for place, lens in enumerate(lenses)}
        self._numbers: dict[str, int] = {}
        self._number_of_text: dict[str, int] = {}
        self._cells = [pd.DataFrame(columns=_CELL_COLUMNS, dtype=np.int16)]
        self._images = [pd.DataFrame(columns=_IMAGE_COLUMNS, dtype=np.int16)]

    def add(self, image_id: int, reading: ImageReading) -> None:
        """Add the words of one image."""
        patches, k = len(reading.places), max(1, reading.top_k)
        if not patches:
            return
        codes = [self._codes(lens, reading.layers, patches, k) for lens in reading.lenses]
        # A word that is twice among the candidates of a patch counts once, with its better rank.
        found = _distinct(np.concatenate([*codes, np.zeros(0, np.int64)]))
        place, rank = np.divmod(found, k)
        first = np.r_[True, place[1:] != place[:-1]][: len(place)]
        place, rank = place[first], rank[first]
        cell, patch = np.divmod(place, patches)
        # A link to a cell leads to its patch with the best rank.
        order = np.lexsort((patch, rank, cell))
        cells, starts, counts = np.unique(cell[order], return_index=True, return_counts=True)
        best = reading.places[patch[order][starts]]
        word, cell_number = np.divmod(cells, self._cell_count)
        narrow = [column.astype(np.int16) for column in (cell_number, *best.T)]
        columns = (word.astype(np.int32), np.int32(image_id), narrow[0], counts.astype(np.int32), *narrow[1:])
        self._cells.append(pd.DataFrame(dict(zip(_CELL_COLUMNS, columns, strict=True))))
        on_patch = _distinct((cell // self._cell_count) * patches + patch)
        words, on_patches = np.unique(on_patch // patches, return_counts=True)
        columns = (words.astype(np.int32), np.int32(image_id), on_patches.astype(np.int32))
        self._images.append(pd.DataFrame(dict(zip(_IMAGE_COLUMNS, columns, strict=True))))

    def write(self, folder: Path) -> None:
        """Write the scripts into a new folder."""
        folder.mkdir()
        images, cells = (pd.concat(parts, ignore_index=True) for parts in (self._images, self._cells))
        words: list[str] = list(self._numbers)
        patches: dict[Any, int] = images.groupby("word")["patches"].sum().to_dict()
        order = sorted(patches, key=lambda number: (-patches[number], words[number]))
        rank = pd.Series(range(len(order)), index=order, dtype=np.int64)
        # In both tables: the order of the vocabulary, and of the images within a word.
        images, cells = (
            table.assign(word=table["word"].map(rank)).sort_values("word", kind="stable") for table in (images, cells)
        )
        firsts = _file_starts(cells.groupby("word").size().to_numpy())
        vocabulary = {
            "words": [words[number] for number in order],
            "images": packed(images.groupby("word").size().to_numpy()),
            "patches": packed(np.array([patches[number] for number in order], np.int64)),
            "firsts": firsts,
        }
        script = f"lenscore.vocabulary({script_json(vocabulary)});\n"
        (folder / "vocabulary.js").write_text(script, encoding="ascii")
        for number, (first, stop) in enumerate(zip(firsts, [*firsts, len(order)][1:], strict=True)):
            some = (table.iloc[slice(*table["word"].searchsorted([first, stop]))] for table in (images, cells))
            script = f"lenscore.places({number},{script_json(_places(first, *some))});\n"
            (folder / f"{number:04d}.js").write_text(script, encoding="ascii")

    @property
    def _cell_count(self) -> int:
        return max(1, len(self._layers) * len(self._lenses))

    def _codes(self, lens: LensReading, layers: Sequence[int], patches: int, k: int) -> npt.NDArray[np.int64]:
        """Integer codes of the candidates: ((word * cells + cell) * patches + patch) * k + rank."""
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


def _distinct(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The distinct values, ascending: np.unique by sorting, for its hashing (NumPy 2.4) is 30 times as slow here."""
    ordered = np.sort(values)
    return ordered[np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)]]


def folded(text: str) -> str:
    """Returns a word in lower case and without surrounding blanks, as word-index.js does."""
    return unicodedata.normalize("NFC", text.strip().lower())


def _file_starts(cells_of_word: npt.NDArray[Any]) -> list[int]:
    """The first word of each file, such that none holds many more than `PLACES_A_FILE`."""
    if not len(cells_of_word):
        return []
    file = (np.cumsum(cells_of_word) - cells_of_word) // PLACES_A_FILE
    starts: list[int] = np.flatnonzero(np.r_[True, file[1:] != file[:-1]]).tolist()
    return starts


def _places(first: int, images: pd.DataFrame, cells: pd.DataFrame) -> dict[str, Any]:
    """Where the words from ``first`` on appear: the images of each word, and the cells of each of these images."""
    return {
        "first": first,
        "imagesOfWord": packed(images.groupby("word").size().to_numpy()),
        "image": packed(images["image"].to_numpy()),
        "patches": packed(images["patches"].to_numpy()),
        "cellsOfImage": packed(cells.groupby(["word", "image"]).size().to_numpy()),
        **{name: packed(cells[name].to_numpy()) for name in ("cell", "count", "view", "row", "col")},
    }
