"""Figures of rates by layer and lens: one model, several models, the grid of trained models, and its ablations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lenscore.reports.parts.drawing import COLUMN_INCHES, PAGE_INCHES, beside, lens_style, set_layer_ticks, title_text
from lenscore.reports.parts.layer_plots import draw_rates, label_figure, lens_handles, rate_axis, small_multiples
from lenscore.statistics.summary import OTHER_PATCH, RANDOM_WORDS, Summary, lenses_of

MODEL_SIZE = (COLUMN_INCHES, 2.4)
"""Width and height in inches of the figure of one model."""
PANEL_INCHES = 1.25
"""Height of one of several panels."""
_MANY_LAYERS = 14
"""With more layers the intervals are drawn as bands, since bars would overlap."""
_DOTS = (0, (1, 1.2))


def panels_size(count: int) -> tuple[float, float]:
    """Width and height in inches of a figure of panels."""
    columns = panel_columns(count)
    return (PAGE_INCHES if columns > 2 else COLUMN_INCHES), 0.75 + (PANEL_INCHES + 0.2) * ceil(count / columns)


def grid_size(rows: int, columns: int) -> tuple[float, float]:
    """Width and height in inches of a figure of the grid."""
    return (PAGE_INCHES if columns > 2 else COLUMN_INCHES), 0.85 + PANEL_INCHES * rows


def draw_model(summary: Summary, figure: Figure) -> None:
    """Draw the rate by layer of every lens with 95 % intervals, and the controls."""
    axes = figure.add_subplot()
    _draw_panel(axes, summary, COLUMN_INCHES - 0.6, summary.lenses)
    axes.set_xlabel("visual layer")
    axes.set_ylabel("patches named rightly")
    _finish(figure, [axes], [summary])


def draw_panels(summaries: Sequence[tuple[str, Summary]], figure: Figure) -> None:
    """Draw a panel for each (title, summary), with one scale and one legend."""
    columns, every = panel_columns(len(summaries)), [summary for _, summary in summaries]
    lenses, grid = lenses_of(every), small_multiples(figure, len(summaries), columns)
    for place, (axes, (title, summary)) in enumerate(zip(grid, summaries, strict=True)):
        _draw_panel(axes, summary, figure.get_figwidth() / columns - 0.3, lenses)
        axes.set_title(title_text(title, panel_inches(figure, columns)), fontsize=7, pad=3)
        if place + columns < len(summaries) and summary.layers == every[place + columns].layers:
            axes.set_xticklabels([])
    label_figure(figure, "visual layer", "patches named rightly")
    _finish(figure, grid, every)


def draw_grid(
    llms: Sequence[str], encoders: Sequence[str], cells: Mapping[tuple[str, str], Summary], figure: Figure
) -> None:
    """Draw a panel for each LLM (row) and vision encoder (column), with one scale and one legend."""
    panels = figure.subplots(len(llms), len(encoders), sharey=True, squeeze=False)
    width = figure.get_figwidth() / len(encoders)
    lenses = lenses_of(cells.values())
    alike = len({tuple(summary.layers) for summary in cells.values()}) == 1
    for row, llm in enumerate(llms):
        for column, encoder in enumerate(encoders):
            axes, summary = panels[row, column], cells.get((llm, encoder))
            if row == 0:
                axes.set_title(title_text(encoder, panel_inches(figure, len(encoders))), fontsize=7, pad=4)
            if column == 0:
                axes.set_ylabel(title_text(llm, PANEL_INCHES - 0.1), fontsize=7)
            if summary is None:
                axes.text(0.5, 0.5, "no run", ha="center", va="center", transform=axes.transAxes, color="#777777")
                axes.set_xticks([])
                axes.spines[:].set_visible(False)
                axes.tick_params(left=False, labelleft=False)
                continue
            _draw_panel(axes, summary, width - 0.3, lenses)
            if alike and row + 1 < len(llms) and (llms[row + 1], encoder) in cells:
                axes.set_xticklabels([])
    label_figure(figure, "visual layer", "patches named rightly")
    _finish(figure, [axes for axes in panels.ravel() if axes.lines], list(cells.values()))


def _draw_panel(axes: Axes, summary: Summary, inches: float, lenses: Sequence[str]) -> None:
    """Draw the lines of one model on axes of a width in inches; ``lenses`` are those of the whole figure."""
    layers = np.array(summary.layers)
    aside = beside(summary.layers)
    size = float(np.clip(18 * inches / len(layers), 1.5, 3.5))
    for turn, lens in enumerate(summary.lenses):
        colour, marker = lens_style(lens, lenses)
        rates = [summary.rate(lens, layer)[2:] for layer in summary.layers]
        if len(layers) > _MANY_LAYERS:
            middle, low, high = np.array(rates).T
            axes.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(layers, middle, color=colour, linewidth=1)
        else:
            at = layers + aside * (turn - (len(summary.lenses) - 1) / 2)
            draw_rates(axes, at, rates, colour, marker, size, capsize=size / 3)
        rest = [summary.control(OTHER_PATCH, lens, layer).rate for layer in summary.layers]
        _draw_control(axes, layers, rest, colour, _DOTS)
    chance = [summary.control(RANDOM_WORDS, layer=layer).rate for layer in summary.layers]
    _draw_control(axes, layers, chance, "#000000", "--")
    set_layer_ticks(axes, summary.layers, inches)
    rate_axis(axes)
    axes.tick_params(width=0.5, length=2, pad=1.5)


def _draw_control(axes: Axes, layers: npt.NDArray[np.int64], rates: Sequence[float], colour: str, style: Any) -> None:
    """Draw a line; for a single layer it extends to both sides."""
    if len(layers) == 1:
        layers, rates = layers + np.array([-0.4, 0.4]), [*rates, *rates]
    axes.plot(layers, rates, color=colour, linewidth=0.8, linestyle=style)


def _finish(figure: Figure, panels: Sequence[Axes], summaries: Sequence[Summary]) -> None:
    """Give all panels one scale from 0, and the figure one legend above."""
    highest = max((float(summary.table["high"].max()) for summary in summaries), default=1.0)
    for axes in panels:
        top = min(1.0, 1.05 * highest) if highest == highest else 1.0
        axes.set_ylim(-0.015 * top, top)  # the margin keeps markers at 0 whole
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes = panels[0]
    handles = lens_handles(axes, lenses_of(summaries))
    controls = {name for one in summaries for name in one.controls.loc[one.controls["n"] > 0, "control"]}
    if OTHER_PATCH in controls:
        handles += axes.plot([], [], color="#555555", linewidth=0.8, linestyle=_DOTS, label="other patch's words")
    if RANDOM_WORDS in controls:
        handles += axes.plot([], [], color="#000000", linewidth=0.8, linestyle="--", label="random words")
    room = int(figure.get_figwidth() / 1.05)
    figure.legend(
        handles=handles, loc="outside upper center", ncols=min(room, len(handles)), columnspacing=1, handlelength=1.8
    )


def panel_inches(figure: Figure, columns: int) -> float:
    """The approximate width of one of several panels in a row, without the labels at the left."""
    return (figure.get_figwidth() - 0.7) / columns - 0.1


def panel_columns(count: int) -> int:
    """The number of panels side by side in a figure of ``count`` panels."""
    return count if count < 3 else 3 if count in (3, 5, 6, 9) else 4
