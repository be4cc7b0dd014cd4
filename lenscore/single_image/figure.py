"""One image as a figure for a paper: the image with numbered patches, and their words by lens and layer.

A figure of page width is a table with a column for each lens; in a figure of column width the lenses are below one
another. The files hold no time; the same reading gives the same bytes on one machine.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lenscore.readings.image_reading import ImageReading
from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import COLUMN_INCHES, PAGE_INCHES, lens_style
from lenscore.single_image import image_panel as panel
from lenscore.single_image.cells import has_sentences, lens_lines
from lenscore.single_image.fonts import without_remarks
from lenscore.single_image.patch_choice import placed
from lenscore.single_image.style import FAINT, LINE_INCHES, METADATA, RULE, SETTINGS, SMALL_POINTS
from lenscore.single_image.text_layout import Line, Run, cut, draw_line, outside, wrapped
from storage_layouts.errors import InputError

Width = Literal["page", "column"]
Format = Literal["png", "pdf", "svg"]
DRAWN_LAYERS = 3
"""More layers are drawn only on request."""

_GAP = 0.16
_MARGIN = 0.04
_CROP = 0.36
_LAYER_WIDTH = 0.26
_TAG_WIDTH = 0.58
_GROUP_GAP = 0.09
_TALLEST = 60
"""Inches, several pages. Drawing libraries and viewers fail for much higher figures."""

_Block = tuple[int, list[list[Line]]]
"""The text beside one patch: a layer, and the lines of each lens."""


def drawn_layers(layers: Sequence[int], asked: Sequence[int] | None = None) -> tuple[int, ...]:
    """Returns the layers to draw: ``asked``, or all up to `DRAWN_LAYERS`, or else the first, the middle and the last.

    Raises InputError for a layer that was not analysed.
    """
    if asked is None:
        if len(layers) <= DRAWN_LAYERS:
            return tuple(layers)
        return (layers[0], layers[len(layers) // 2], layers[-1])
    for layer in asked:
        if layer not in layers:
            raise InputError(f"layers: {layer} was not analysed; expected some of {', '.join(map(str, layers))}")
    return tuple(sorted(set(asked)))


def figure_bytes(
    reading: ImageReading,
    model: str,
    patches: Sequence[int],
    kind: Format,
    layers: Sequence[int] | None = None,
    width: Width = "page",
    sentences: int = 2,
    dpi: int = 300,
) -> bytes:
    """Draw a reading and return the bytes of a PNG, PDF or SVG file.

    Args:
        reading: the image and its words.
        model: the model's label.
        patches: indices in the reading.
        kind: the format of the file.
        layers: see `drawn_layers`.
        width: that of a page (6.8 inches) or of one of its two columns (3.3 inches).
        sentences: lines of each lens at a layer.
        dpi: pixels per inch of a PNG file.

    Raises:
        InputError: another width, no lines, a layer that was not analysed, a figure higher than several pages.

    """
    if sentences < 1:
        raise InputError(f"sentences: found {sentences}, expected at least 1")
    layers = drawn_layers(reading.layers, layers)
    if width not in ("page", "column"):
        raise InputError(f"width: found {width!r}, expected 'page' or 'column'")
    with without_remarks(), mpl.rc_context():  # without pyplot: no global state, no window system
        mpl.rcdefaults()  # independent of a user's matplotlibrc
        mpl.rcParams.update(SETTINGS)
        figure = _Drawing(reading, model, patches, layers, width, sentences).drawn()
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=METADATA[kind])
        return buffer.getvalue()


class _Drawing:
    """Lays out and draws the figure; lengths are inches from its upper left corner."""

    def __init__(
        self, reading: ImageReading, model: str, patches: Sequence[int], layers: Sequence[int], width: Width, lines: int
    ) -> None:
        self._reading, self._model, self._patches, self._lines = reading, model, tuple(patches), lines
        self._columns = width == "page"
        self._width = PAGE_INCHES if self._columns else COLUMN_INCHES
        self._placed = placed(reading, patches)
        self._pixels = panel.opened(reading)
        room = 2.15 if self._columns else self._width - 2 * _MARGIN
        self._image = panel.panel_size(reading, room, 3.2 if self._columns else 2.2)
        side = room + _GAP if self._columns else 0.0
        self._table_left = _MARGIN + side
        self._beside = self._table_left + (_CROP + 0.08 if self._placed else 2 * panel.RADIUS + 0.06)
        self._words_left = self._beside + _LAYER_WIDTH
        self._titles = [title_of(lens.lens) for lens in reading.lenses]
        names = [lens.lens for lens in reading.lenses]
        self._colours = [lens_style(name, names)[0] for name in names]
        self._cells = self._cell_widths()
        self._groups = [[self._block(patch, layer) for layer in layers] for patch in self._patches]
        self._notes = self._note_lines(room)

    def drawn(self) -> Figure:
        """The whole figure."""
        image_bottom = _MARGIN + self._image[1] + 0.05 + LINE_INCHES * len(self._notes)
        table_top = _MARGIN if self._columns else image_bottom + 0.1
        table_height = LINE_INCHES * 1.4 + sum(self._group_height(blocks) + _GROUP_GAP for blocks in self._groups)
        height = max(image_bottom, table_top + table_height) + _MARGIN
        if height > _TALLEST:
            raise InputError(
                f"a figure of {len(self._patches)} patches at {len(self._groups[0])} layers would be {height:.0f} "
                f"inches high, expected at most {_TALLEST}; ask for fewer of them (the page has all)"
            )
        figure = Figure(figsize=(self._width, height), facecolor="white")
        FigureCanvasAgg(figure)
        self._draw_image(figure)
        self._draw_table(figure, table_top)
        return figure

    def _draw_image(self, figure: Figure) -> None:
        width, height = self._image
        left = _MARGIN if self._columns else (self._width - width) / 2
        box = (left, _MARGIN, width, height)
        panel.draw_image(figure, self._pixels, self._reading, box)
        if self._placed:
            panel.draw_patches(figure, self._reading, self._patches, box)
        for number, line in enumerate(self._notes, 1):
            draw_line(figure, line, _MARGIN, _MARGIN + height + 0.03 + number * LINE_INCHES)

    def _draw_table(self, figure: Figure, top: float) -> None:
        y = top + LINE_INCHES
        draw_line(figure, (Run("layer", FAINT, points=SMALL_POINTS),), self._beside, y)
        if self._columns:
            for title, colour, (left, width) in zip(self._titles, self._colours, self._cells, strict=True):
                text = cut(outside(title, "bold"), width, "bold")
                draw_line(figure, (Run(text, colour, "bold"),), left, y)
        y += LINE_INCHES * 0.4
        for number, (patch, blocks) in enumerate(zip(self._patches, self._groups, strict=True), 1):
            self._rule(figure, y)
            y += _GROUP_GAP / 2
            if self._placed:
                box = (self._table_left, y + 0.04 + 2 * panel.RADIUS, _CROP, _CROP)
                panel.draw_crop(figure, self._pixels, self._reading, patch, box)
            panel.draw_number(figure, number, self._table_left + panel.RADIUS, y + panel.RADIUS + 0.02)
            below = y
            for block in blocks:
                below = self._draw_block(figure, block, below)
            y += self._group_height(blocks) + _GROUP_GAP / 2

    def _draw_block(self, figure: Figure, block: _Block, top: float) -> float:
        """Draw one layer of one patch and return the position of its lower edge."""
        layer, lenses = block
        draw_line(figure, (Run(str(layer), FAINT),), self._beside, top + LINE_INCHES * 0.85)
        y = top
        for title, colour, (left, _), lines in zip(self._titles, self._colours, self._cells, lenses, strict=True):
            if not self._columns:
                tag = cut(outside(title.removesuffix("Lens"), "bold"), _TAG_WIDTH - 0.05, "bold", SMALL_POINTS)
                run = Run(tag, colour, "bold", SMALL_POINTS)
                draw_line(figure, (run,), left - _TAG_WIDTH, y + LINE_INCHES * 0.85)
            for number, line in enumerate(lines):
                draw_line(figure, line, left, y + LINE_INCHES * (number + 0.85))
            y += 0 if self._columns else LINE_INCHES * max(len(lines), 1)
        return top + self._block_height(block)

    def _rule(self, figure: Figure, y: float) -> None:
        width, height = figure.get_size_inches()
        ends = [self._table_left / width, 1 - _MARGIN / width]
        figure.add_artist(Line2D(ends, [1 - y / height] * 2, color=RULE, linewidth=0.5, transform=figure.transFigure))

    def _block(self, patch: int, layer: int) -> _Block:
        place = self._reading.layers.index(layer)
        cells = zip(self._reading.lenses, self._colours, self._cells, strict=True)
        return layer, [lens_lines(lens, place, patch, width, colour, self._lines) for lens, colour, (_, width) in cells]

    def _block_height(self, block: _Block) -> float:
        heights = [max(len(lines), 1) for lines in block[1]] or [1]
        return LINE_INCHES * (max(heights) if self._columns else sum(heights)) + 0.03

    def _group_height(self, blocks: Sequence[_Block]) -> float:
        least = 2 * panel.RADIUS + (_CROP + 0.06 if self._placed else 0.04)
        return max(sum(map(self._block_height, blocks)), least)

    def _cell_widths(self) -> list[tuple[float, float]]:
        """Left edge and width of the words of each lens; sentences have about twice the width of words."""
        right = self._width - _MARGIN
        if not self._columns:
            left = self._words_left + _TAG_WIDTH
            return [(left, right - left)] * len(self._reading.lenses)
        shares = [2.2 if has_sentences(lens) else 1.0 for lens in self._reading.lenses]
        gap, left, found = 0.12, self._words_left, []
        room = right - left - gap * (len(shares) - 1)
        for share in shares:
            width = room * share / sum(shares)
            found.append((left, width))
            left += width + gap
        return found

    def _note_lines(self, width: float) -> list[Line]:
        """The lines below the image: its name, the model, and a key to the figure."""
        name = Run(cut(outside(self._reading.name, "bold", word=True), width, "bold"), weight="bold")
        model = Run(cut(outside(self._model), width, points=SMALL_POINTS), FAINT, points=SMALL_POINTS)
        lines: list[Line] = [(name,), (model,)]
        note = self._places_note() + self._sentences_note()
        words = [Run(word, FAINT, points=SMALL_POINTS) for word in note.split()]
        return lines + wrapped(words, width, Run(" ", FAINT, points=SMALL_POINTS), 5)

    def _places_note(self) -> str:
        views = sorted(set(self._reading.places[list(self._patches), 0].tolist()))
        if not self._placed:
            return "The positions of these visual tokens on the image are unknown. "
        grids = []
        for view in views:
            rows, cols = self._reading.places[self._reading.places[:, 0] == view][:, 1:].max(axis=0) + 1
            name = outside(self._reading.views.get(view, str(view)))
            grids.append(f"{rows} × {cols} patches" + (f" ({name})" if len(self._reading.views) > 1 else ""))
        return ", ".join(grids) + ". "

    def _sentences_note(self) -> str:
        if any(has_sentences(lens) and lens.contextual_layers is not None for lens in self._reading.lenses):
            return "Bold: the token in its sentence; L8: its contextual layer is 8."
        return ""
