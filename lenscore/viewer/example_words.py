"""One picture of a model with words on it, for the first page: what a lens says, before anything is opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np

from lenscore.readings.image_reading import ImageReading
from lenscore.readings.lens_titles import title_of
from lenscore.viewer.candidate_words import is_empty, visible

WIDTH = 360
"""Of the drawing, in the unit of its coordinates; a card of the first page is about as many pixels wide."""
_ACROSS = 3
_LONGEST = 14  # characters of a word


@dataclass(frozen=True)
class ExampleWords:
    """The words of one lens at one layer on some patches of a picture.

    Attributes:
        height: of the drawing, which is `WIDTH` wide.
        words: (x, y, word) of the middle of a patch.
        says: which lens and layer.
        image: the part of the image page's address after #, for the same image, layer and lens, with all words.
        picture: the picture's address relative to the viewer's folder, when it is written.

    """

    height: int
    words: tuple[tuple[float, float, str], ...]
    says: str
    image: str
    picture: str = ""


def example_words(image_id: int, reading: ImageReading) -> ExampleWords | None:
    """Returns the words of the first lens at the middle layer on nine patches in even steps; None without any."""
    height = round(WIDTH * reading.height / reading.width)
    words = tuple(_words(reading, height)) if reading.lenses and reading.layers else ()
    if not words:
        return None
    lens, layer = reading.lenses[0].lens, reading.layers[len(reading.layers) // 2]
    return ExampleWords(height, words, f"{title_of(lens)}, layer {layer}", f"{image_id}/{layer}//{quote(lens)}/inside")


def _words(reading: ImageReading, height: int) -> Iterator[tuple[float, float, str]]:
    lens, layer = reading.lenses[0], len(reading.layers) // 2
    middles = (reading.boxes[:, :2] + reading.boxes[:, 2:]) / 2
    steps = (np.arange(_ACROSS) + 0.5) / _ACROSS
    wanted = [(across, down) for down in steps for across in steps]
    nearest = [int(np.square(middles - place).sum(axis=1).argmin()) for place in wanted] if len(middles) else []
    for patch in dict.fromkeys(nearest):
        best = int(lens.which[layer, patch, 0]) if lens.which.shape[2] else -1
        if best >= 0 and not is_empty(text := lens.words[best].text):
            x, y = (middles[patch] * (WIDTH, height)).tolist()
            shown = visible(text).strip()
            yield round(x, 1), round(y, 1), shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
