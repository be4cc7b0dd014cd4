"""How figures show what changes over layers: lines with bands, stacked shares, and small multiples of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lenscore.reports.parts.drawing import COLUMN_INCHES, PAGE_INCHES, label_text

Numbers = npt.ArrayLike
GREY = "#d9d9d9"
"""For what is not known of: words outside a list."""

_PANELS_IN_A_ROW = 3
_TICKS_ACROSS_A_COLUMN = 13


def panels_size(count: int, height: float = 1.5, legend: float = 0.6) -> tuple[float, float]:
    """Width and height in inches of so many `panels`: a column for one, else up to three side by side on a page."""
    if count == 1:
        return COLUMN_INCHES, 1.9 + legend
    rows = -(-count // _PANELS_IN_A_ROW)
    return (COLUMN_INCHES if count == 0 else PAGE_INCHES), height * rows + legend


def panels(figure: Figure, titles: Sequence[str], share_y: bool = True) -> list[Axes]:
    """Axes side by side, one a title, with a common vertical axis; a single one needs no title."""
    if len(titles) == 1:
        return [figure.add_subplot()]
    across = min(_PANELS_IN_A_ROW, len(titles))
    grid = figure.subplots(-(-len(titles) // across), across, sharey=share_y, squeeze=False)
    axes = list(grid.flat)
    for spare in axes[len(titles) :]:
        spare.remove()
    for place, title in zip(axes, titles, strict=False):
        place.set_title(label_text(title), fontsize=7)
    return axes[: len(titles)]


def stacked_panels(figure: Figure, titles: Sequence[str], share_y: bool = True) -> list[Axes]:
    """Axes below each other, one a title, with common layers."""
    grid = figure.subplots(len(titles), 1, sharex=True, sharey=share_y, squeeze=False)
    for place, title in zip(grid.flat, titles, strict=True):
        place.set_title(label_text(title, 50), fontsize=7, loc="left", pad=3)
    return list(grid.flat)


def set_layers(axes: Axes, layers: Sequence[int], ticks: int = _TICKS_ACROSS_A_COLUMN) -> None:
    """Mark layers on the horizontal axis, at equal distances; of many only every second, third, ... is named."""
    step = -(-len(layers) // ticks)
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    axes.grid(axis="y", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)


def draw_band(axes: Axes, middle: Numbers, low: Numbers, high: Numbers, colour: str, **style: Any) -> None:
    """A line over layers, and a band around it; for a single layer a point with a bar."""
    places = np.arange(len(np.asarray(middle)))
    small = len(places) > _TICKS_ACROSS_A_COLUMN
    if len(places) == 1:
        axes.vlines(places, np.asarray(low), np.asarray(high), color=colour, linewidth=0.8)
    axes.fill_between(places, np.asarray(low), np.asarray(high), color=colour, alpha=0.2, linewidth=0)
    (line,) = axes.plot(places, np.asarray(middle), color=colour, linewidth=1.2, markersize=2 if small else 3)
    line.set(**style)


def draw_stacks(axes: Axes, shares: Mapping[str, Numbers], colours: Mapping[str, str]) -> None:
    """Shares (0..1) over layers as bars on top of each other, the first at the bottom."""
    base: npt.NDArray[np.float64] | float = 0.0
    for name, share in shares.items():
        heights = np.nan_to_num(np.asarray(share, dtype=np.float64))
        axes.bar(range(len(heights)), heights, bottom=base, width=0.85, color=colours[name], label=name, linewidth=0)
        base = base + heights
    axes.set_ylim(0, 1)
    percent_axis(axes)


def percent_axis(axes: Axes) -> None:
    """Write shares on the vertical axis as percents, with decimals only where they are needed."""
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g} %")


def legend_above(figure: Figure, axes: Axes) -> None:
    """One legend for the whole figure, of what one of its axes shows; as many columns as its width has room for."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        shown = [label_text(label) for label in labels]
        inches = 0.3 + 0.058 * max(map(len, shown))
        columns = int(figure.get_figwidth() // inches)
        figure.legend(handles, shown, loc="outside upper center", ncols=min(max(columns, 1), len(labels)))


def label_outside(figure: Figure, horizontal: str, vertical: str) -> None:
    """One label for all horizontal axes, one for all vertical ones."""
    figure.supxlabel(horizontal, fontsize=8)
    figure.supylabel(vertical, fontsize=8)
