"""An analysed image as Python users hold it: shown in a notebook, saved as figure and page, read as a table."""

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
from storage_layouts.errors import InputError
from storage_layouts.files import write_atomic

NOTEBOOK_HEIGHT = 720
"""Pixels of the page in a notebook."""


@dataclass(frozen=True, repr=False)
class AnalyzedImage:
    """What the lenses say of one image.

    Attributes:
        reading: all of it, as arrays and words.
        model: how the model was called.
        sha256: what names the image where patches are sampled; see `analyze_image`.

    """

    reading: ImageReading
    model: str
    sha256: str

    def __repr__(self) -> str:
        lenses = ", ".join(lens.lens for lens in self.reading.lenses)
        layers = ", ".join(map(str, self.reading.layers))
        return f"AnalyzedImage({self.reading.name!r}: {len(self.reading.places)} patches, layers {layers}; {lenses})"

    def show(self) -> None:
        """In a notebook the page, to be explored; elsewhere a table of a few patches' words on the terminal."""
        shell = _notebook()
        if shell is None:
            console = Console(width=None if sys.stdout.isatty() else 120)
            console.print(words_table(self.reading, self.sampled(), drawn_layers(self.reading.layers)))
        else:
            from IPython.display import display

            display(self)

    def sampled(self, patches: PatchChoice = 4, seed: int = 0) -> tuple[int, ...]:
        """Places in the reading of some patches, the same for equal image and seed; or those in [(3, 5), (0, 7)]."""
        return chosen_patches(self.reading, self.sha256, patches, seed)

    def to_pandas(self) -> pd.DataFrame:
        """One line per patch, layer, lens and rank; see `lenscore.single_image.reading_table.reading_table`."""
        return reading_table(self.reading)

    def to_html(self) -> str:
        """The page of the viewer with everything in it: one file, no network."""
        from lenscore.viewer.image_page import single_page

        return single_page(self.reading, self.model)

    def save_html(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_html` into a file and return its path."""
        return _written(path, self.to_html().encode())

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
            path: the file to write; an older one is replaced.
            patches: how many to sample, or places as in [(3, 5), (0, 7)] (row, column, or view, row, column).
            layers: which of the analysed layers; by default all, or of more than three the first, middle and last.
            width: that of a page (6.8 inches) or of one of its two columns (3.3 inches).
            sentences: lines of each lens at a layer.
            seed: decides which patches are sampled.
            dpi: pixels an inch.

        Raises:
            InputError: a layer that was not analysed, a patch that is not there, a file that cannot be written.

        """
        return _written(path, self._figure("png", patches, layers, width, sentences, seed, dpi))

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
        """The same as a vector figure (or again as PNG), by the ending of the path: .pdf, .svg or .png."""
        kinds: dict[str, Format] = {".pdf": "pdf", ".svg": "svg", ".png": "png"}
        kind = kinds.get(Path(path).suffix.lower())
        if kind is None:
            raise InputError(f"{path}: a figure is a .pdf, .svg or .png file; found {Path(path).suffix or 'no ending'}")
        return _written(path, self._figure(kind, patches, layers, width, sentences, seed, 300))

    def _figure(
        self,
        kind: Format,
        patches: PatchChoice,
        layers: Sequence[int] | None,
        width: Width,
        sentences: int,
        seed: int,
        dpi: int,
    ) -> bytes:
        if sentences < 1:
            raise InputError(f"sentences: found {sentences}, expected at least 1")
        chosen = drawn_layers(self.reading.layers, layers)
        return figure_bytes(self.reading, self.model, self.sampled(patches, seed), chosen, width, sentences, kind, dpi)

    def _repr_html_(self) -> str:
        # In a frame of its own, so that its styles and keys stay there. Without allow-same-origin nothing in it can
        # reach the notebook.
        page = html.escape(self.to_html(), quote=True)
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts allow-downloads" title="what the lenses see" '
            f'style="width:100%;height:{NOTEBOOK_HEIGHT}px;border:1px solid #ccc;border-radius:4px"></iframe>'
        )


def _notebook() -> Any:
    """The shell of the notebook that we run in, or None."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


def _written(path: str | os.PathLike[str], data: bytes) -> Path:
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder; name a file in it")
    write_atomic(path, data)
    return path
