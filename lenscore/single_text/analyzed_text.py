"""An analysed text in Python: shown in a notebook, saved as a page, read as a table."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from lenscore.readings.text_reading import TextReading
from lenscore.reports.parts.table_formats import csv_bytes
from lenscore.single_image.analyzed_image import framed_page, in_notebook, written
from lenscore.single_text.text_table import reading_table
from lenscore.single_text.tokens_table import tokens_table
from lenscore.viewer.text_page import text_page


@dataclass(frozen=True, repr=False)
class AnalyzedText:
    """The words of the lenses for one text.

    Attributes:
        reading: tokens, words and scores, as arrays.
        model: the model's label.

    """

    reading: TextReading
    model: str

    def __repr__(self) -> str:
        lenses = ", ".join(lens.lens for lens in self.reading.lenses)
        layers = ", ".join(map(str, self.reading.layers))
        return f"AnalyzedText({self.reading.name!r}: {len(self.reading.tokens)} tokens, layers {layers}; {lenses})"

    def show(self) -> None:
        """Show the page in a notebook; elsewhere print a table of tokens and layers for each lens."""
        if in_notebook():
            from IPython.display import display

            display(self)
            return
        console = Console(width=None if sys.stdout.isatty() else 120)
        for lens in self.reading.lenses:
            console.print(tokens_table(self.reading, lens, console.width, console.is_terminal))

    def to_pandas(self) -> pd.DataFrame:
        """Returns one row per token, layer, lens and rank; see `lenscore.single_text.text_table.reading_table`."""
        return reading_table(self.reading)

    def to_html(self) -> str:
        """Returns the page of this text as one HTML file that needs no network."""
        return text_page(self.reading, self.model)

    def save_html(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_html` into a file and return its path."""
        return written(path, self.to_html().encode())

    def save_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_pandas` as CSV and return its path. Text that a spreadsheet would compute gets an apostrophe."""
        return written(path, csv_bytes(self.to_pandas()))

    def _repr_html_(self) -> str:
        return framed_page(self.to_html(), "what the lenses read")
