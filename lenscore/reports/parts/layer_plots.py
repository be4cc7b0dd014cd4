"""Small multiples, and plots of values over layers: lines with intervals or bands, and stacked shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import COLUMN_INCHES, PAGE_INCHES, label_text, lens_style, set_layer_ticks

Numbers = npt.ArrayLike
GREY = "#d9d9d9"
"""The colour of words outside a list."""

_PANELS_IN_A_ROW = 3
_TICKS_ACROSS_A_COLUMN = 13


def panels_size(count: int, legend: float = 0.6) -> tuple[float, float]:
    """Width and height in inches of a figure of `panels`: a column for one, else a page for up to three a row."""
    if count == 1:
        return COLUMN_INCHES, 1.9 + legend
    return PAGE_INCHES, 1.5 * -(-count // _PANELS_IN_A_ROW) + legend


def small_multiples(figure: Figure, count: int, columns: int, share_y: bool = True) -> list[Axes]:
    """Axes in rows of equal length; the last row may be shorter."""
    grid = figure.subplots(-(-count // columns), columns, sharey=share_y, squeeze=False)
    for spare in grid.flat[count:]:
        spare.remove()
    return list(grid.flat[:count])


def panels(figure: Figure, frame: pd.DataFrame, by: str, share_y: bool = True) -> list[tuple[Axes, pd.DataFrame]]:
    """Axes side by side for each value of a column, with its lines; several axes have the value as the title."""
    groups = list(frame.groupby(by, sort=False))
    if len(groups) == 1:
        return [(figure.add_subplot(), groups[0][1])]
    grid = small_multiples(figure, len(groups), min(_PANELS_IN_A_ROW, len(groups)), share_y)
    for axes, (title, _) in zip(grid, groups, strict=True):
        axes.set_title(label_text(str(title)), fontsize=7)
    return [(axes, lines) for axes, (_, lines) in zip(grid, groups, strict=True)]


def stacked_panels(
    figure: Figure, frame: pd.DataFrame, by: str, title: Callable[[str], str] = str, share_y: bool = True
) -> list[tuple[Axes, pd.DataFrame]]:
    """Axes below each other for each value of a column, with its lines; the layers are shared."""
    groups = list(frame.groupby(by, sort=False))
    grid = figure.subplots(len(groups), 1, sharex=True, sharey=share_y, squeeze=False)
    for axes, (value, _) in zip(grid.flat, groups, strict=True):
        axes.set_title(label_text(title(str(value)), 50), fontsize=7, loc="left", pad=3)
    return [(axes, lines) for axes, (_, lines) in zip(grid.flat, groups, strict=True)]


def set_bars(axes: Axes, layers: Sequence[int]) -> None:
    """Mark the layers of `draw_stacks` on the horizontal axis; many layers get a label for every n-th only."""
    step = -(-len(layers) // _TICKS_ACROSS_A_COLUMN)
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    axes.grid(axis="y")


def draw_band(
    axes: Axes, layers: Numbers, middle: Numbers, low: Numbers, high: Numbers, colour: str, **style: Any
) -> None:
    """Draw a line with a band over layers; a single layer becomes a point with a bar."""
    x = np.asarray(layers)
    small = len(x) > _TICKS_ACROSS_A_COLUMN
    if len(x) == 1:
        axes.vlines(x, np.asarray(low), np.asarray(high), color=colour, linewidth=0.8)
    axes.fill_between(x, np.asarray(low), np.asarray(high), color=colour, alpha=0.2, linewidth=0)
    (line,) = axes.plot(x, np.asarray(middle), color=colour, linewidth=1.2, markersize=2 if small else 3)
    line.set(**style)


def set_layers(figure: Figure, axes: Axes, layers: Sequence[int], side_by_side: int) -> None:
    """Mark the layers of lines on the horizontal axis of one of some axes ``side_by_side``, with grid lines."""
    columns = min(_PANELS_IN_A_ROW, side_by_side)
    set_layer_ticks(axes, layers, (figure.get_figwidth() - 0.7) / columns - 0.2)
    axes.grid(axis="y")


def draw_rates(
    axes: Axes,
    x: Numbers,
    rates: Sequence[Sequence[float]],
    colour: str,
    marker: str,
    size: float = 3.2,
    capsize: float = 1.2,
    linestyle: str = "-",
) -> None:
    """Draw rates (rate, low, high) as a line with error bars."""
    middle, low, high = np.array(rates).reshape(-1, 3).T
    style: dict[str, Any] = {"elinewidth": 0.7, "capsize": capsize, "capthick": 0.5, "fmt": "none"}
    axes.errorbar(x, middle, error_bars(middle, low, high), color=colour, **style)
    line: dict[str, Any] = {"color": colour, "marker": marker, "markersize": size, "markeredgewidth": 0, "linewidth": 1}
    axes.plot(x, middle, linestyle=linestyle, **line)


def error_bars(middle: Numbers, low: Numbers, high: Numbers) -> npt.NDArray[np.float64]:
    """The lengths of error bars ``[2, n]``."""
    values, lows, highs = (np.asarray(numbers, dtype=np.float64) for numbers in (middle, low, high))
    return np.array([values - lows, highs - values]).clip(min=0)


def lens_handles(axes: Axes, lenses: Sequence[str]) -> list[Any]:
    """Legend entries of lenses in the style of `draw_rates`."""
    handles = []
    for lens in lenses:
        colour, marker = lens_style(lens, lenses)
        line: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "markersize": 3.5,
            "markeredgewidth": 0,
            "linewidth": 1,
        }
        handles += axes.plot([], [], label=label_text(title_of(lens)), **line)
    return handles


def draw_stacks(axes: Axes, shares: Mapping[str, Numbers], colours: Mapping[str, str]) -> None:
    """Draw shares (0..1) over layers as stacked bars, the first at the bottom."""
    base: npt.NDArray[np.float64] | float = 0.0
    for name, share in shares.items():
        heights = np.nan_to_num(np.asarray(share, dtype=np.float64))
        axes.bar(range(len(heights)), heights, bottom=base, width=0.85, color=colours[name], label=name, linewidth=0)
        base = base + heights
    axes.set_ylim(0, 1)
    percent_axis(axes)


def rate_axis(axes: Axes) -> None:
    """Label the vertical axis in whole percents, with grid lines."""
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y")


def percent_axis(axes: Axes) -> None:
    """Label the vertical axis in percents, with as many decimals as needed."""
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g} %")


def label_figure(figure: Figure, horizontal: str, vertical: str) -> None:
    """Label all horizontal and all vertical axes once, and add the `legend_above`."""
    figure.supxlabel(horizontal)
    figure.supylabel(vertical)
    legend_above(figure)


def legend_above(figure: Figure) -> None:
    """A legend of the first axes above the figure, with as many columns as the width has room for."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if labels:
        shown = [label_text(label) for label in labels]
        columns = int(figure.get_figwidth() // (0.3 + 0.058 * max(map(len, shown))))
        figure.legend(handles, shown, loc="outside upper center", ncols=min(max(columns, 1), len(labels)))
