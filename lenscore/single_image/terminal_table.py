"""The words of a few patches as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from lenscore.readings.image_reading import ImageReading, LensReading
from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import lens_style
from storage_layouts.printable import printable, printable_word

_LONGEST = 40
"""Characters of a word."""


def words_table(reading: ImageReading, patches: Sequence[int], layers: Sequence[int], title: str = "") -> Table:
    """Returns the best words of every lens, each once, for some patches (indices in the reading) at some layers.

    The title is by default the image's name.
    """
    table = Table(title=Text(_cut(printable(title or reading.name), 2 * _LONGEST)), title_style="bold")
    table.add_column("patch", no_wrap=True)
    table.add_column("layer", justify="right")
    names = [lens.lens for lens in reading.lenses]
    for lens in reading.lenses:
        table.add_column(Text(printable(title_of(lens.lens))), header_style=lens_style(lens.lens, names)[0])
    for number, patch in enumerate(patches, 1):
        for layer in layers:
            first = layer == layers[0]
            at = reading.layers.index(layer)
            table.add_row(
                Text(f"{number} {_place(reading, patch)}" if first else ""),
                str(layer),
                *(Text(_words(lens, at, patch)) for lens in reading.lenses),
                end_section=layer == layers[-1],
            )
    return table


def _place(reading: ImageReading, patch: int) -> str:
    view, row, col = reading.places[patch].tolist()
    where = f"row {row}, column {col}"
    return where if len(reading.views) == 1 else f"{printable(reading.views.get(view, str(view)))}, {where}"


def _words(lens: LensReading, layer: int, patch: int) -> str:
    texts = dict.fromkeys(lens.words[one].text for one in lens.which[layer, patch].tolist() if one >= 0)
    return ", ".join(printable_word(_cut(text, _LONGEST)) for text in texts)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + "…"
