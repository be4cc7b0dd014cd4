"""How much of LatentLens' cosines a few dimensions make, over layers: the check for rogue dimensions."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lenscore.reports.parts.drawing import COLOURS
from lenscore.reports.parts.layer_plots import draw_band, label_figure, panels, panels_size, percent_axis, set_layers
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import FINDINGS, Plot, Section, Table
from lenscore.statistics.intervals import clustered_mean
from lenscore.statistics.sources import AnalyzeSource, Sources
from storage_layouts.tables import matrix_of_lists
from storage_layouts.token_measures import DIMENSIONS, LARGEST

COLUMNS = ["model", "layer", "dimensions", "tokens", "share", "low", "high", "commonest", "commonest_share"]
_STYLES: dict[int, dict[str, Any]] = {1: {"marker": "o"}, LARGEST: {"marker": "s", "linestyle": (0, (1, 1.2))}}


def dimensions_section(sources: Sources) -> Section | None:
    """The shares of all analyze runs that stored them; None without such a run."""
    known = [source for source in sources.analyses if source.results.has(DIMENSIONS)]
    if not known:
        return None
    measured = [measure_dimensions(source) for source in known]
    frame = pd.concat(measured, ignore_index=True)
    caption = (
        f"Share of the cosine of a visual token with its nearest row (LatentLens) that the largest dimension and the "
        f"{LARGEST} largest make: means over tokens"
    )
    plot = Plot("dimensions", f"{caption}, 95 % intervals.", panels_size(len(known)), partial(_draw, frame), frame)
    table = Table("dimensions", f"{caption}, 95 % intervals over images.", frame, _shown(frame))
    of_blocks = [
        found[found["layer"].isin(source.results.mean_layers)] for source, found in zip(known, measured, strict=True)
    ]
    findings = tuple(map(_sentence, of_blocks)) if len(known) <= FINDINGS else ()
    return Section("Rogue dimensions", _TEXT, (table,), (plot,), (table,), findings=findings)


_TEXT = (
    "A cosine is a sum over dimensions. Where few of them, the same for all tokens, make most of it, it says little "
    "about meaning (Timkey & van Schijndel 2021). Shares may be above 100\u00a0%, because other dimensions may take "
    "from the cosine. The commonest dimension is the one that is the largest of most tokens, with the share of these "
    "tokens.\n"
)


def measure_dimensions(source: AnalyzeSource) -> pd.DataFrame:
    """Mean shares (95 % interval over images) by layer; columns ``COLUMNS``.

    Cosines that are not positive do not count.
    """
    table = source.results.dimensions()
    _, image = np.unique(table["image_id"].to_numpy(), return_inverse=True)
    shares = {1: matrix_of_lists(table["first"]), LARGEST: matrix_of_lists(table["five"])}
    largest = matrix_of_lists(table["dimension"])
    lines = []
    for place in np.argsort(source.results.layers):
        for count, of_layers in shares.items():
            values = of_layers[:, place].astype(np.float64)
            is_known = ~np.isnan(values)
            sums = np.bincount(image[is_known], values[is_known], minlength=1)[:, None]
            counts = np.bincount(image[is_known], minlength=1)[:, None]
            mean = [float(bound[0]) for bound in clustered_mean(sums, counts)]
            which, times = np.unique(largest[is_known, place].astype(np.int64), return_counts=True)
            commonest = [int(which[times.argmax()]), times.max() / times.sum()] if len(which) else [-1, np.nan]
            head = [source.label, source.results.layers[place], count, int(is_known.sum())]
            lines.append([*head, *mean, *commonest])
    return pd.DataFrame(lines, columns=COLUMNS)


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    one, five = (frame[frame["dimensions"] == count].reset_index() for count in (1, LARGEST))
    return pd.DataFrame(
        {
            "model": one["model"],
            "layer": one["layer"].astype(str),
            "largest dimension": [_interval(line) for _, line in one.iterrows()],
            f"{LARGEST} largest": [_interval(line) for _, line in five.iterrows()],
            "commonest": [f"{line['commonest']} ({_percent(line['commonest_share'])})" for _, line in one.iterrows()],
        }
    )


def _sentence(frame: pd.DataFrame) -> str:
    """The layer at which the largest dimension makes most."""
    one = frame[frame["dimensions"] == 1].dropna(subset=["share"])
    if one.empty:
        return f"{markdown_text(str(frame['model'].iloc[0]))}: no cosine of LatentLens is positive."
    line = one.iloc[int(one["share"].argmax())]
    five = frame[(frame["dimensions"] == LARGEST) & (frame["layer"] == line["layer"])].iloc[0]
    return (
        f"{markdown_text(str(line['model']))}: the largest dimension makes most of LatentLens' cosines at layer "
        f"{line['layer']}, {_interval(line)}; the {LARGEST} largest make {_interval(five)} there."
    )


def _draw(frame: pd.DataFrame, figure: Figure) -> None:
    grid = panels(figure, frame, "model")
    for axes, of_model in grid:
        for (count, style), colour in zip(_STYLES.items(), COLOURS, strict=False):
            lines = of_model[of_model["dimensions"] == count]
            label = "the largest dimension" if count == 1 else f"the {count} largest"
            draw_band(axes, lines["layer"], lines["share"], lines["low"], lines["high"], colour, label=label, **style)
        set_layers(figure, axes, lines["layer"].tolist(), len(grid))
        axes.set_ylim(bottom=0)
        percent_axis(axes)
    label_figure(figure, "visual layer", "share of the cosine")


def _interval(line: pd.Series) -> str:
    return f"{_percent(line['share'])} ({_percent(line['low'])}–{_percent(line['high'])})"


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.0f} %"
