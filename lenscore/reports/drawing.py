"""One style for all figures: legible in a paper's column, each as PNG, SVG and PDF beside the CSV it was drawn from.

Nothing in the files depends on the time or the machine. Colours are Okabe and Ito's, which colour-blind readers
can tell apart; every lens has a marker of its own besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lenscore.reports.sections import Plot
from lenscore.reports.tables import csv_bytes
from storage_layouts.files import write_atomic

COLUMN_INCHES = 3.3
"""Width of a column of a paper."""
PAGE_INCHES = 6.8
"""Width of a paper's page."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")

_LENSES = {"latent": 0, "logit": 1, "embedding": 2}
_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "svg.hashsalt": "lenscore",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def lens_style(lens: str, lenses: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a lens, the same in every figure; further lenses get the next free ones."""
    further = [name for name in lenses if name not in _LENSES]
    place = _LENSES[lens] if lens in _LENSES else 3 + further.index(lens) % (len(COLOURS) - 3)
    return COLOURS[place], MARKERS[place]


def draw_heat_map(axes: Axes, shares: npt.NDArray[np.float64], rows: Sequence[str], columns: Sequence[str]) -> Any:
    """Draw shares (0..1) ``[rows, columns]`` as a heat map with their percents; returns what a colour bar needs."""
    drawn = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), list(columns))
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(length=0)
    for row, column in np.ndindex(*shares.shape):
        share = shares[row, column]
        if not np.isnan(share):
            colour = "#000000" if share > 0.55 else "#ffffff"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6, color=colour)
    return drawn


def save_plot(plot: Plot, folder: Path) -> list[Path]:
    """Draw a plot into ``<name>.png``, ``.svg``, ``.pdf`` and ``.csv`` of a folder and return these paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / plot.name
    paths = [folder / f"{stem.name}.{ending}" for ending in (*_METADATA, "csv")]
    with mpl.rc_context(_SETTINGS):  # without pyplot: no global state, no window system
        figure = Figure(figsize=plot.size, layout="constrained")
        plot.draw(figure)
        for path, metadata in zip(paths, _METADATA.values(), strict=False):
            figure.savefig(path, dpi=300, metadata=metadata)
    write_atomic(paths[-1], csv_bytes(plot.data))
    return paths
