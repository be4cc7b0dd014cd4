"""What the lenses say of chosen words at every patch and layer of one image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from lenscore.readings.image_reading import ImageReading
from lenscore.readings.word_reading import WordReading
from lenscore.single_image.analyzed_image import framed_page, written
from lenscore.viewer.word_page import word_page

WORDS_SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("word", pa.string()),
        ("view", pa.int16()),
        ("row", pa.int16()),
        ("col", pa.int16()),
        ("x0", pa.float32()),
        ("y0", pa.float32()),
        ("x1", pa.float32()),
        ("y1", pa.float32()),
        ("layer", pa.int16()),
        ("lens", pa.string()),
        ("score", pa.float32()),
        ("probability", pa.float32()),
        ("rank", pa.int64()),
        ("contextual_layer", pa.int16()),
    ]
)
"""Boxes are in pixels of the image. ``probability`` is null for words of several tokens and for lenses without
probabilities, ``contextual_layer`` for lenses over the vocabulary."""


@dataclass(frozen=True, repr=False)
class FoundWords:
    """Chosen words in one image.

    Attributes:
        reading: the image, its patches and layers; without candidates of lenses.
        words: the words, as they were asked for.
        lenses: what each lens says of them, in the order to show.
        model: the model's label.
        image: the path of the image, or its name.
        notes: words that a lens does not have, one sentence each.

    """

    reading: ImageReading
    words: tuple[str, ...]
    lenses: tuple[WordReading, ...]
    model: str
    image: str
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        lenses = ", ".join(lens.lens for lens in self.lenses)
        words = ", ".join(map(repr, self.words))
        layers = ", ".join(map(str, self.reading.layers))
        patches = len(self.reading.places)
        return f"FoundWords({self.reading.name!r}: {words}; {patches} patches, layers {layers}; {lenses})"

    def to_arrow(self) -> pa.Table:
        """Returns one line per word, patch, layer and lens that has the word, in `WORDS_SCHEMA`."""
        scores = np.stack([lens.scores for lens in self.lenses], axis=-1).swapaxes(
            1, 2
        )  # [words, patches, layers, lenses]
        word, patch, layer, lens = np.nonzero(~np.isnan(scores))

        def values(name: str, missing: float) -> npt.NDArray[np.generic]:
            found = [getattr(one, name) for one in self.lenses]
            filled = [np.full(self.lenses[0].scores.shape, missing) if one is None else one for one in found]
            return np.stack(filled, axis=-1)[word, layer, patch, lens]

        size = np.array([self.reading.width, self.reading.height] * 2, np.float32)
        corners = (self.reading.boxes * size)[patch]
        probability, context = values("probabilities", np.nan), values("contextual_layers", -1).astype(np.int16)
        columns = {
            "image": pa.array([self.image], pa.string()).take(pa.array(np.zeros(len(word), np.int8))),
            "word": pa.array(self.words, pa.string()).take(pa.array(word)),
            **dict(zip(("view", "row", "col"), self.reading.places[patch].T, strict=True)),
            **dict(zip(("x0", "y0", "x1", "y1"), corners.T, strict=True)),
            "layer": np.asarray(self.reading.layers)[layer],
            "lens": pa.array([one.lens for one in self.lenses]).take(pa.array(lens)),
            "score": scores[word, patch, layer, lens],
            "probability": pa.array(probability, mask=np.isnan(probability)),
            "rank": values("ranks", 0).astype(np.int64),
            "contextual_layer": pa.array(context, mask=context < 0),
        }
        return pa.table({name: columns[name] for name in WORDS_SCHEMA.names}).cast(WORDS_SCHEMA)

    def to_pandas(self) -> pd.DataFrame:
        """Returns `to_arrow` as a DataFrame."""
        return self.to_arrow().to_pandas()

    def to_html(self) -> str:
        """Returns a page with the maps as one HTML file that needs no network."""
        return word_page(self.reading, self.words, self.lenses, self.model)

    def save_html(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_html` into a file and return its path."""
        return written(path, self.to_html().encode())

    def _repr_html_(self) -> str:
        return framed_page(self.to_html(), "where the words are")
