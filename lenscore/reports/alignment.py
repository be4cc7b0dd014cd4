"""The contextual layers of the LatentLens neighbours of each visual layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lenscore.reports.parts.drawing import COLUMN_INCHES, PAGE_INCHES, draw_heat_map, title_text
from lenscore.reports.parts.layer_plots import label_figure, small_multiples
from lenscore.reports.parts.leap import draw_leap, leap_sentence, leap_shown, leap_size, leap_table, leaps_sentence
from lenscore.reports.parts.neighbours import Neighbours, count_neighbours
from lenscore.reports.sections import FINDINGS, Plot, Section, Table
from lenscore.statistics.file_names import file_name
from lenscore.statistics.sources import Sources

ALIGNMENT_COLUMNS = ["model", "visual_layer", "contextual_layer", "count", "share", "nearest", "nearest_share"]
_NUMBERS = 10
"""Up to this many layers, the cells of a map have room for their numbers."""


def alignment_section(sources: Sources) -> Section | None:
    """The layer alignment of all analyze runs with LatentLens; None without such a run."""
    found = {
        source.label: (neighbours, source.depth)
        for source in sources.analyses
        if (neighbours := count_neighbours(source.results)) is not None and neighbours.counts.any()
    }
    if not found:
        return None
    leap = leap_table(found)
    counts = {label: alignment_table(label, neighbours) for label, (neighbours, _) in found.items()}
    maps = [
        Plot(
            f"alignment-{file_name(label)}",
            f"{label}: contextual layers that the nearest neighbours of each visual layer come from, in percent.",
            (COLUMN_INCHES, 0.9 + min(0.24 * frame["visual_layer"].nunique(), 3)),
            partial(_draw_map, frame),
            frame,
        )
        for label, frame in counts.items()
    ]
    everything = pd.concat(counts.values(), ignore_index=True)
    plots = [
        Plot(
            "leap",
            "Contextual layer of the nearest neighbour by visual layer; dashed: the same layer.",
            leap_size(leap),
            partial(draw_leap, leap),
            leap,
        )
    ]
    if len(maps) > 1:
        plots.append(
            Plot(
                "alignment-models",
                "Contextual layers that the nearest neighbours of each visual layer come from, one panel a model.",
                _maps_size(len(maps)),
                partial(_draw_maps, counts),
                everything,
            )
        )
    sentences = [leap_sentence(label, leap[leap["model"] == label]) for label in counts]
    if len(sentences) > FINDINGS:
        sentences = [leaps_sentence(leap)]
    caption = (
        "Neighbours of LatentLens by visual and contextual layer, all that are kept (count, share) and the nearest "
        "alone (nearest, nearest_share); shares within a visual layer. The maps show the nearest."
    )
    leaps = Table("leap", "Contextual layer of the nearest neighbours by visual layer.", leap, leap_shown(leap))
    text = (
        "The nearest neighbours of all patches of all images, not only of the judged ones. A layer is the input of its "
        "block. The intervals of the means are over images.\n"
    )
    return Section(
        "Layer alignment",
        text,
        (leaps, Table("alignment", caption, everything)),
        (*plots, *maps),
        (leaps,) if len(counts) <= FINDINGS else (),
        tuple(sentences),
        tuple(maps) if len(maps) > 1 else (),
    )


def alignment_table(model: str, neighbours: Neighbours) -> pd.DataFrame:
    """Neighbours by visual and contextual layer, columns ``ALIGNMENT_COLUMNS``; a line for every pair of layers.

    ``count`` is the number of all neighbours, ``nearest`` that of the first ones; shares (0..1) are within a visual
    layer.
    """
    pairs = pd.MultiIndex.from_product([neighbours.visual, neighbours.contextual], names=ALIGNMENT_COLUMNS[1:3])
    frame = pd.DataFrame(index=pairs).assign(model=model)
    for name, share, counts in (
        ("count", "share", neighbours.counts),
        ("nearest", "nearest_share", neighbours.nearest),
    ):
        shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        frame = frame.assign(**{name: counts.ravel(), share: shares.ravel()})
    return frame.reset_index()[ALIGNMENT_COLUMNS]


def _draw_map(counts: pd.DataFrame, figure: Figure) -> None:
    """Draw a map whose rows sum to 100 %."""
    axes = figure.add_subplot()
    drawn = _draw_shares(axes, counts, float(counts["nearest_share"].max()), numbers=True)
    axes.set_xlabel("contextual layer of the nearest neighbour")
    axes.set_ylabel("visual layer")
    _colour_bar(figure, drawn, [axes])


def _maps_size(count: int) -> tuple[float, float]:
    columns = min(count, 4)
    return (PAGE_INCHES if count > 2 else COLUMN_INCHES), 0.5 + 1.45 * ceil(count / columns)


def _draw_maps(counts: Mapping[str, pd.DataFrame], figure: Figure) -> None:
    columns = min(len(counts), 4)
    grid = small_multiples(figure, len(counts), columns, share_y=False)
    highest = max(float(frame["nearest_share"].max()) for frame in counts.values())
    for axes, (label, frame) in zip(grid, counts.items(), strict=True):
        drawn = _draw_shares(axes, frame, highest, numbers=False)
        axes.set_title(title_text(label, (figure.get_figwidth() - 0.9) / columns - 0.3), fontsize=7, pad=3)
        axes.tick_params(labelsize=6)
    label_figure(figure, "contextual layer of the nearest neighbour", "visual layer")
    _colour_bar(figure, drawn, grid)


def _draw_shares(axes: Axes, counts: pd.DataFrame, highest: float, numbers: bool) -> Any:
    """Draw a map of shares, with colours up to the highest share of the figure."""
    shares = counts.pivot_table(index="visual_layer", columns="contextual_layer", values="nearest_share", dropna=False)
    fits = max(shares.shape[1], shares.shape[0] / 2) <= _NUMBERS
    drawn = draw_heat_map(axes, shares.to_numpy(), highest, numbers and fits, fontsize=6.5)
    for axis, layers in ((axes.xaxis, shares.columns), (axes.yaxis, shares.index)):
        every = ceil(len(layers) / 12)
        axis.set_ticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]])
    axes.spines[:].set_visible(False)
    return drawn


def _colour_bar(figure: Figure, drawn: Any, panels: Sequence[Axes]) -> None:
    bar = figure.colorbar(drawn, ax=panels, format=PercentFormatter(1, decimals=0), pad=0.02, aspect=25)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(width=0.5, length=2)
