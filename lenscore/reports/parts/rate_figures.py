"""Figures of rates by layer and lens: one model, several, the grid of trained ones, and its ablations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import (
    COLUMN_INCHES,
    PAGE_INCHES,
    label_text,
    lens_style,
    set_layer_ticks,
    title_text,
)
from lenscore.statistics.summary import OTHER_PATCH, RANDOM_WORDS, Summary

PANEL_INCHES = 1.25
"""Height of one of several panels."""
_MANY_LAYERS = 14
"""Of more layers the intervals are drawn as bands, since bars would hide one another."""
_DOTS = (0, (1, 1.2))


def model_size() -> tuple[float, float]:
    """Of the figure of one model, in inches."""
    return COLUMN_INCHES, 2.4


def panels_size(count: int) -> tuple[float, float]:
    """Of a figure with so many panels, in inches."""
    columns = panel_columns(count)
    return (PAGE_INCHES if columns > 2 else COLUMN_INCHES), 0.75 + (PANEL_INCHES + 0.2) * ceil(count / columns)


def grid_size(rows: int, columns: int) -> tuple[float, float]:
    """Of a figure of the grid, in inches."""
    return (PAGE_INCHES if columns > 2 else COLUMN_INCHES), 0.85 + PANEL_INCHES * rows


def draw_model(summary: Summary, figure: Figure) -> None:
    """Rate by layer for every lens with 95 % intervals, other patches' words and chance."""
    axes = figure.add_subplot()
    _draw_panel(axes, summary, COLUMN_INCHES - 0.6, summary.lenses)
    axes.set_xlabel("visual layer")
    axes.set_ylabel("patches named rightly")
    _finish(figure, [axes], [summary])


def draw_panels(summaries: Sequence[tuple[str, Summary]], figure: Figure) -> None:
    """A panel for each (title, summary), with one scale and one legend."""
    columns, lenses = panel_columns(len(summaries)), _lenses([summary for _, summary in summaries])
    rows = ceil(len(summaries) / columns)
    panels = np.atleast_1d(figure.subplots(rows, columns, sharey=True)).ravel()
    width = figure.get_figwidth() / columns
    for place, (axes, (title, summary)) in enumerate(zip(panels, summaries, strict=False)):
        _draw_panel(axes, summary, width - 0.3, lenses)
        axes.set_title(title_text(title, panel_inches(figure, columns)), fontsize=7, pad=3)
        if place + columns < len(summaries) and _same_layers(summaries[place][1], summaries[place + columns][1]):
            axes.set_xticklabels([])
    for axes in panels[len(summaries) :]:
        axes.remove()
    figure.supxlabel("visual layer", fontsize=8)
    figure.supylabel("patches named rightly", fontsize=8)
    _finish(figure, list(panels[: len(summaries)]), [summary for _, summary in summaries])


def draw_grid(
    llms: Sequence[str], encoders: Sequence[str], cells: Mapping[tuple[str, str], Summary], figure: Figure
) -> None:
    """A panel for each LLM (row) and vision encoder (column), with one scale and one legend."""
    panels = figure.subplots(len(llms), len(encoders), sharey=True, squeeze=False)
    width = figure.get_figwidth() / len(encoders)
    lenses = _lenses(list(cells.values()))
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
    figure.supxlabel("visual layer", fontsize=8)
    figure.supylabel("patches named rightly", fontsize=8)
    _finish(figure, [axes for axes in panels.ravel() if axes.lines], list(cells.values()))


def _draw_panel(axes: Axes, summary: Summary, inches: float, lenses: Sequence[str]) -> None:
    """The lines of one model on an axis that is so wide; ``lenses`` are those of the whole figure."""
    places = np.arange(len(summary.layers))
    spread = min(0.12, 0.5 / len(summary.lenses))
    size = float(np.clip(18 * inches / len(places), 1.5, 3.5))
    for turn, lens in enumerate(summary.lenses):
        colour, marker = lens_style(lens, lenses)
        rates = [summary.rate(lens, layer) for layer in summary.layers]
        middle = np.array([rate.rate for rate in rates])
        reach = np.array([[rate.rate - rate.low, rate.high - rate.rate] for rate in rates]).T.clip(min=0)
        if len(places) > _MANY_LAYERS:
            axes.fill_between(places, middle - reach[0], middle + reach[1], color=colour, alpha=0.15, linewidth=0)
            axes.plot(places, middle, color=colour, linewidth=1)
        else:
            at = places + spread * (turn - (len(summary.lenses) - 1) / 2)
            axes.errorbar(at, middle, reach, color=colour, elinewidth=0.7, capsize=size / 3, capthick=0.5, fmt="none")
            axes.plot(at, middle, color=colour, marker=marker, markersize=size, markeredgewidth=0, linewidth=1)
        _draw_control(axes, [summary.control(OTHER_PATCH, lens, layer).rate for layer in summary.layers], colour, _DOTS)
    chance = [summary.control(RANDOM_WORDS, layer=layer).rate for layer in summary.layers]
    _draw_control(axes, chance, "#000000", "--")
    set_layer_ticks(axes, summary.layers, inches)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    axes.tick_params(width=0.5, length=2, pad=1.5)


def _draw_control(axes: Axes, rates: Sequence[float], colour: str, style: Any) -> None:
    """A line; of a single layer it runs to both sides of it."""
    x = np.arange(len(rates)) if len(rates) > 1 else np.array([-0.4, 0.4])
    axes.plot(x, [*rates, *rates] if len(rates) == 1 else rates, color=colour, linewidth=0.8, linestyle=style)


def _finish(figure: Figure, panels: Sequence[Axes], summaries: Sequence[Summary]) -> None:
    """One scale from 0, and one legend above, for all panels."""
    highest = max((float(summary.table["high"].max()) for summary in summaries), default=1.0)
    for axes in panels:
        top = min(1.0, 1.05 * highest) if highest == highest else 1.0
        axes.set_ylim(-0.015 * top, top)  # markers on the axis are seen whole
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    lenses = _lenses(summaries)
    handles, axes = [], panels[0]
    for lens in lenses:
        colour, marker = lens_style(lens, lenses)
        title = label_text(title_of(lens))
        handles += axes.plot(
            [], [], color=colour, marker=marker, markersize=3.5, markeredgewidth=0, linewidth=1, label=title
        )
    controls = {control for summary in summaries for control in _controls(summary)}
    if OTHER_PATCH in controls:
        handles += axes.plot([], [], color="#555555", linewidth=0.8, linestyle=_DOTS, label="other patch's words")
    if RANDOM_WORDS in controls:
        handles += axes.plot([], [], color="#000000", linewidth=0.8, linestyle="--", label="random words")
    room = int(figure.get_figwidth() / 1.05)
    figure.legend(
        handles=handles, loc="outside upper center", ncols=min(room, len(handles)), columnspacing=1, handlelength=1.8
    )


def _lenses(summaries: Sequence[Summary]) -> list[str]:
    return list(dict.fromkeys(lens for summary in summaries for lens in summary.lenses))


def _controls(summary: Summary) -> set[str]:
    answered = summary.controls[summary.controls["n"] > 0]
    return set(answered["control"])


def panel_inches(figure: Figure, columns: int) -> float:
    """About how wide each of so many panels side by side is, without the labels to their left."""
    return (figure.get_figwidth() - 0.7) / columns - 0.1


def panel_columns(count: int) -> int:
    """How many panels stand side by side in a figure of so many."""
    return count if count < 3 else 3 if count in (3, 5, 6, 9) else 4


def _same_layers(one: Summary, other: Summary) -> bool:
    return one.layers == other.layers
