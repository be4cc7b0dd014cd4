"""An analysed image in Python: shown in a notebook, saved as figure and page, read as a table."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from lenscore.readings.image_reading import ImageReading
from lenscore.single_image.figure import Format, Width, drawn_layers, figure_bytes
from lenscore.single_image.patch_choice import PatchChoice, chosen_patches
from lenscore.single_image.reading_table import reading_table
from lenscore.single_image.terminal_table import words_table
from lenscore.viewer.image_page import single_page
from storage_layouts.errors import InputError
from storage_layouts.files import write_atomic

NOTEBOOK_HEIGHT = 720
"""Pixels of the page in a notebook."""


@dataclass(frozen=True, repr=False)
class AnalyzedImage:
    """The words of the lenses for one image.

    Attributes:
        reading: patches, words and scores, as arrays.
        model: the model's label.
        sha256: identifies the image when patches are sampled; see `analyze_image`.

    """

    reading: ImageReading
    model: str
    sha256: str

    def __repr__(self) -> str:
        lenses = ", ".join(lens.lens for lens in self.reading.lenses)
        layers = ", ".join(map(str, self.reading.layers))
        return f"AnalyzedImage({self.reading.name!r}: {len(self.reading.places)} patches, layers {layers}; {lenses})"

    def show(self) -> None:
        """Show the page in a notebook; elsewhere print a table of the words of a few patches."""
        if in_notebook():
            from IPython.display import display

            display(self)
        else:
            console = Console(width=None if sys.stdout.isatty() else 120)
            console.print(words_table(self.reading, self.sampled(), drawn_layers(self.reading.layers)))

    def sampled(self, patches: PatchChoice = 4, seed: int = 0) -> tuple[int, ...]:
        """Returns indices of patches in the reading: sampled by image and seed, or the places in [(3, 5), (0, 7)]."""
        return chosen_patches(self.reading, self.sha256, patches, seed)

    def to_pandas(self) -> pd.DataFrame:
        """Returns one row per patch, layer, lens and rank; see `lenscore.single_image.reading_table.reading_table`."""
        return reading_table(self.reading)

    def to_html(self) -> str:
        """Returns the viewer's page of this image as one HTML file that needs no network."""
        return single_page(self.reading, self.model)

    def save_html(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_html` into a file and return its path."""
        return written(path, self.to_html().encode())

    def save_png(
        self,
        path: str | os.PathLike[str],
        *,
        patches: PatchChoice = 4,
        layers: Sequence[int] | None = None,
        width: Width = "page",
        sentences: int = 2,
        seed: int = 0,
        dpi: int = 300,
    ) -> Path:
        """Draw the image, numbered patches and their words into a PNG file; returns its path.

        Args:
            path: the file to write; an existing one is replaced.
            patches: how many to sample, or places as in [(3, 5), (0, 7)] (row, column, or view, row, column).
            layers: some of the analysed layers; by default all, or the first, middle and last of more than three.
            width: that of a page (6.8 inches) or of one of its two columns (3.3 inches).
            sentences: lines of each lens at a layer.
            seed: of the sampled patches.
            dpi: pixels per inch.

        Raises:
            InputError: a layer that was not analysed, a patch that does not exist, a file that cannot be written.

        """
        return self._save(path, "png", patches, seed, layers=layers, width=width, sentences=sentences, dpi=dpi)

    def save_figure(
        self,
        path: str | os.PathLike[str],
        *,
        patches: PatchChoice = 4,
        layers: Sequence[int] | None = None,
        width: Width = "page",
        sentences: int = 2,
        seed: int = 0,
    ) -> Path:
        """Write the figure of `save_png` in the format of the path's ending: .pdf, .svg or .png."""
        kinds: dict[str, Format] = {".pdf": "pdf", ".svg": "svg", ".png": "png"}
        kind = kinds.get(Path(path).suffix.lower())
        if kind is None:
            raise InputError(f"{path}: a figure is a .pdf, .svg or .png file; found {Path(path).suffix or 'no ending'}")
        return self._save(path, kind, patches, seed, layers=layers, width=width, sentences=sentences)

    def _save(
        self, path: str | os.PathLike[str], kind: Format, patches: PatchChoice, seed: int, **options: Any
    ) -> Path:
        """Write a figure; ``options`` are those of `figure_bytes`."""
        return written(path, figure_bytes(self.reading, self.model, self.sampled(patches, seed), kind, **options))

    def _repr_html_(self) -> str:
        return framed_page(self.to_html(), "what the lenses see")


def framed_page(page: str, title: str) -> str:
    """Returns a page in a frame, so that its styles and keys do not affect the notebook around it.

    Without allow-same-origin its scripts cannot access the notebook.
    """
    return (
        f'<iframe srcdoc="{html.escape(page, quote=True)}" sandbox="allow-scripts allow-downloads" title="{title}" '
        f'style="width:100%;height:{NOTEBOOK_HEIGHT}px;border:1px solid #ccc;border-radius:4px"></iframe>'
    )


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


def written(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file and return its path. Raises InputError for a folder and for a place that cannot be written."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder; name a file in it")
    write_atomic(path, data)
    return path
