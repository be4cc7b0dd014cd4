"""The style of all figures: legible in a paper's column, as PNG, SVG and PDF, with a CSV of the data.

The files do not depend on the time or the machine. The colours are Okabe and Ito's, which are safe for colour-blind
readers; each lens also has its own marker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from fontTools import subset
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import text_to_path

from lenscore.readings.axis_labels import labelled
from lenscore.readings.lens_titles import ANALYZED
from lenscore.reports.parts.table_formats import csv_bytes, plain
from lenscore.reports.sections import Plot
from storage_layouts.files import write_atomic

COLUMN_INCHES = 3.3
"""Width of a column of a paper."""
PAGE_INCHES = 6.8
"""Width of a paper's page."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")

_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "figure.labelsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "svg.hashsalt": "lenscore",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
_FORMATS: dict[str, tuple[type[FigureCanvasBase], dict[str, None]]] = {
    "png": (FigureCanvasAgg, {"Software": None}),
    "svg": (FigureCanvasSVG, {"Date": None, "Creator": None}),
    "pdf": (FigureCanvasPdf, {"CreationDate": None, "Creator": None, "Producer": None}),
}
"""By ending: matplotlib's canvas of the format, and the metadata."""


def lens_style(lens: str, lenses: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a lens, the same in every figure; lenses of plugins get the remaining ones."""
    known = list(ANALYZED)
    further = [name for name in lenses if name not in known]
    place = known.index(lens) if lens in known else 3 + further.index(lens) % (len(COLOURS) - 3)
    return COLOURS[place], MARKERS[place]


def draw_heat_map(
    axes: Axes, shares: npt.NDArray[np.float64], highest: float = 1.0, numbers: bool = True, fontsize: float = 6
) -> Any:
    """Draw shares (0..1) as a heat map, with their percents if ``numbers``. Returns the image for a colour bar."""
    drawn = axes.imshow(shares, cmap="cividis", vmin=0, vmax=highest, aspect="auto")
    axes.tick_params(length=0)
    for (row, column), share in np.ndenumerate(shares) if numbers else ():
        if not np.isnan(share):
            colour = "#000000" if share > 0.55 * highest else "#ffffff"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=fontsize, color=colour)
    return drawn


def drawn(plot: Plot) -> Figure:
    """Draw a plot on a figure of its size in the style of the report, with its axes in their final places."""
    with mpl.rc_context(_SETTINGS):  # without pyplot, which has global state and needs a window system
        layout = ConstrainedLayoutEngine()
        figure = Figure(figsize=plot.size, layout=layout)
        plot.draw(figure)
        layout.execute(figure)
        figure.set_layout_engine(None)  # arrange once; with "none" each file is drawn twice
    return figure


def save_plot(plot: Plot, folder: Path) -> list[Path]:
    """Write a plot as ``<name>.png``, ``.svg``, ``.pdf`` and ``.csv`` into a folder. Returns these paths.

    By the canvases, for `Figure.savefig` draws a figure twice for each file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{plot.name}.{ending}" for ending in (*_FORMATS, "csv")]
    figure = drawn(plot)
    with mpl.rc_context(_SETTINGS), _fonts_without_layout():
        for path, (ending, (canvas, metadata)) in zip(paths, _FORMATS.items(), strict=False):
            figure.set_dpi(300)  # some formats leave their own
            getattr(canvas(figure), f"print_{ending}")(path, metadata=metadata)
    write_atomic(paths[-1], csv_bytes(plot.data))
    return paths


@contextmanager
def _fonts_without_layout() -> Iterator[None]:
    """A PDF says where each glyph is, so its font needs no kerning and ligatures, which take half of its time."""
    kept = subset.load_font
    subset.load_font = _load_font
    try:
        yield
    finally:
        subset.load_font = kept


def _load_font(*arguments: Any, load: Callable[..., Any] = subset.load_font, **options: Any) -> Any:
    font = load(*arguments, **options)
    for table in ("GDEF", "GPOS", "GSUB", "kern"):
        if table in font:
            del font[table]
    return font


def label_text(text: str, most: int = 28) -> str:
    """Untrusted text as a label: one line without markup or formulas; the middle of long text is left out."""
    return _drawable(_shortened(text, most))


def title_text(text: str, inches: float) -> str:
    """Untrusted text as the title of a panel of a width in inches, in at most two lines of 7 points."""
    for most in range(int(60 * inches), 3, -1):
        short = _shortened(text, most)
        if _inches(short) <= inches:
            return _drawable(short)
        ends = [place + 1 for place, sign in enumerate(short) if sign in " -_/,"] or [len(short) // 2]
        fitting = [end for end in ends if max(_inches(short[:end]), _inches(short[end:])) <= inches]
        if fitting:
            end = min(fitting, key=lambda place: abs(place - len(short) / 2))
            return f"{_drawable(short[:end])}\n{_drawable(short[end:])}"
    return _drawable(_shortened(text, 3))


def _inches(text: str) -> float:
    """The width of a line of 7 points in inches."""
    points: float = text_to_path.get_text_width_height_descent(_drawable(text), FontProperties(size=7), False)[0]
    return points / 72


def set_layer_ticks(axes: Axes, layers: Sequence[int], inches: float) -> None:
    """Mark ascending layers on the x axis, a width in inches, at their true distances."""
    span = max(1, layers[-1] - layers[0])
    label = (max(len(str(layer)) for layer in layers) + 1.2) * 0.062 * (1.1 * span / inches)  # its width in layers
    named = labelled(layers, label)
    axes.set_xticks(layers, [str(layer) if layer in named else "" for layer in layers])
    margin = 0.05 * span if len(layers) > 1 else 0.6
    axes.set_xlim(layers[0] - margin, layers[-1] + margin)


def beside(layers: Sequence[int]) -> float:
    """How far lines over layers are moved against each other, so that their error bars do not cover each other."""
    return 0.015 * max(1, layers[-1] - layers[0])


def _shortened(text: str, most: int) -> str:
    short = plain(text)
    if len(short) <= most:
        return short
    ahead = (most - 1) // 2
    return f"{short[:ahead]}…{short[len(short) - (most - 1 - ahead) :]}"


def _drawable(text: str) -> str:
    """Text with characters of the font only, and with dollar signs that do not start a formula."""
    return "".join(sign if ord(sign) in _glyphs() else "□" for sign in text).replace("$", r"\$")


@cache
def _glyphs() -> frozenset[int]:
    """The code points in the font of the figures; matplotlib warns of any other."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
