"""Where words are and how well maps show their objects, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import lens_style
from lenscore.single_image.figure import drawn_layers
from lenscore.statistics.intervals import share_text
from lenscore.word_maps.found_words import FoundWords
from lenscore.word_maps.localisation import ALL_WORDS, MEASURES
from storage_layouts.printable import printable

MOST_WORDS = 12
"""Words that a table shows one by one; of more it has the mean."""


def best_patches_table(found: FoundWords) -> Table:
    """Returns for each word and lens the patch with the highest score at the first, middle and last layer."""
    shown = drawn_layers(found.reading.layers)
    table = Table(title=Text(printable(found.reading.name)), title_style="bold", caption="rank at row,column: score")
    for column in ("word", "lens", "looked up"):
        table.add_column(column)
    for layer in shown:
        table.add_column(f"layer {layer}", justify="right")
    names = [lens.lens for lens in found.lenses]
    for place, word in enumerate(found.words):
        for lens in found.lenses:
            cells = [_best(found, lens.scores[place, at], lens.ranks[place, at]) for at in _places(found, shown)]
            style = lens_style(lens.lens, names)[0]
            table.add_row(
                Text(printable(word)),
                Text(title_of(lens.lens), style=style),
                Text(printable(lens.sought[place]) or "–"),
                *cells,
                end_section=lens is found.lenses[-1],
            )
    return table


def _places(found: FoundWords, layers: Sequence[int]) -> list[int]:
    return [found.reading.layers.index(layer) for layer in layers]


def _best(found: FoundWords, scores: np.ndarray, ranks: np.ndarray) -> str:
    if np.isnan(scores).any():
        return "–"
    best = int(scores.argmax())
    view, row, col = found.reading.places[best].tolist()
    where = f"{row},{col}" if len(found.reading.views) == 1 else f"{view},{row},{col}"
    return f"{ranks[best]:,} at {where}: {scores[best]:.3g}"


def localisation_tables(measured: pd.DataFrame) -> list[Table]:
    """Returns a table for each measure: rows are words and lenses, columns are layers, beside chance."""
    words = [word for word in measured["word"].unique() if word != ALL_WORDS]
    if len(words) > MOST_WORDS:
        measured = measured[measured["word"] == ALL_WORDS]
    layers, lenses = sorted(measured["layer"].unique()), list(measured["lens"].unique())
    tables = []
    for measure, title in MEASURES.items():
        table = Table(title=f"{title}: mean over images, 95 % interval", title_style="bold")
        for column in ("word", "lens", "images", "chance"):
            table.add_column(column)
        for layer in layers:
            table.add_column(f"layer {layer}", justify="right")
        for (word, lens), lines in measured.groupby(["word", "lens"], sort=False):
            numbers = lines.set_index("layer")[[measure, f"{measure}_low", f"{measure}_high"]]
            table.add_row(
                Text(printable(str(word))),
                Text(title_of(str(lens)), style=lens_style(str(lens), lenses)[0]),
                f"{lines['images'].iloc[0]:,}",
                share_text(lines[f"{measure}_chance"].iloc[0], np.nan, np.nan),
                *(share_text(*numbers.loc[layer]) for layer in layers),
                end_section=lens == lenses[-1],
            )
        tables.append(table)
    return tables
