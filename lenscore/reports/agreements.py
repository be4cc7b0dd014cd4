"""Agreement of several judges, and of repeated replies of one judge."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lenscore.reports.parts.drawing import COLOURS, COLUMN_INCHES, MARKERS, beside, label_text, set_layer_ticks
from lenscore.reports.parts.layer_plots import error_bars, rate_axis
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import Plot, Section, Table
from lenscore.statistics.file_names import file_name
from lenscore.statistics.intervals import share_text
from lenscore.statistics.panel import AGREEMENT_COLUMNS, QUESTION, agreement
from lenscore.statistics.sources import AnalyzeSource, Sources

_DRAWN = 30
"""Lines in the figure; the table has all."""
_BY_LAYER = 20
"""Questions per layer that the figure by layer requires."""
_PAIRS = 6
"""Most pairs in a figure by layer."""


def agreement_section(sources: Sources) -> Section | None:
    """The agreement within judge runs, and between those on the same results; None without a comparison.

    Between two runs only common questions count: the same patch, layer, lens, control and words.
    """
    frames = [frame for source in sources.analyses for frame in _frames(source)]
    if not frames:
        return None
    columns = ["model", *AGREEMENT_COLUMNS]
    frame = pd.concat([all_layers[columns] for all_layers, _ in frames], ignore_index=True)
    by_layer = pd.concat([layers[[*columns, "layer"]] for _, layers in frames], ignore_index=True)
    caption = "How often two judges, or two replies of one, say the same where both say yes or no, 95 % intervals."
    table = Table("agreement", caption, frame, _shown(frame))
    height = 0.55 + 0.24 * min(_DRAWN, len(frame))
    plots = [Plot("agreement", caption, (COLUMN_INCHES, height), partial(_draw, frame), frame)]
    for model, of_model in by_layer.groupby("model", sort=False):
        pairs = len(of_model[["first", "second"]].drop_duplicates())
        if of_model["n"].min() >= _BY_LAYER and of_model["layer"].nunique() > 1 and pairs <= _PAIRS:
            about = f"{model}: agreement of judges by layer, 95 % intervals."
            size, drawing = (COLUMN_INCHES, 1.9 + 0.13 * pairs), partial(_draw_by_layer, of_model)
            plots.append(Plot(f"agreement-{file_name(str(model))}", about, size, drawing, of_model))
    tables = (table, Table("agreement-by-layer", f"By layer: {caption}", by_layer))
    return Section(
        "Agreement of judges",
        "Cohen's kappa is agreement beyond chance: 0 is chance, 1 is perfect. The intervals are over images.\n",
        tables,
        tuple(plots),
        (table,),
        tuple(_findings(frame)),
        tuple(plots[1:]) if len(plots) > 2 else (),
    )


def _frames(source: AnalyzeSource) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Agreements over all layers and by layer, with a column ``model``: within each judge run, then between two."""
    for judge in source.judges:
        if len(judge.agreement):
            name = judge.summary.model
            yield judge.agreement.assign(model=name), judge.agreement_by_layer.assign(model=name)
    for one, other in combinations(source.judges, 2):
        names = [one.summary.judge, other.summary.judge]
        if names[0] == names[1]:
            names = [judge.summary.model.removeprefix(source.label).strip() for judge in (one, other)]
        asked = [judge.verdicts.assign(judge=name) for judge, name in zip((one, other), names, strict=True)]
        keys = [frame.set_index([*QUESTION, "candidates"]).index for frame in asked]
        shared = keys[0].intersection(keys[1])
        if len(shared):
            both = pd.concat([frame[key.isin(shared)] for frame, key in zip(asked, keys, strict=True)])
            name = source.label
            yield agreement(both).assign(model=name), agreement(both, by_layer=True).assign(model=name)


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for line in frame.to_dict("records"):
        second = "itself, asked again" if line["first"] == line["second"] else line["second"]
        rate = share_text(line["rate"], line["low"], line["high"])
        kappa = f"{line['kappa']:.2f}" if line["kappa"] == line["kappa"] else "–"
        lines.append([line["model"], line["first"], second, f"{line['n']:,}", rate, kappa])
    return pd.DataFrame(lines, columns=["Model", "Judge", "And", "Questions", "Agree", "Kappa"])


def _findings(frame: pd.DataFrame) -> Iterator[str]:
    """The result of a single comparison, or the range over all."""
    compared = frame[frame["n"] > 0]
    if len(compared) == 1:
        line = compared.to_dict("records")[0]
        rate = share_text(line["rate"], line["low"], line["high"])
        pair = f"{line['first']} and {'itself' if line['first'] == line['second'] else line['second']}"
        yield (
            f"{markdown_text(line['model'])}: {markdown_text(pair)} say the same of {rate} of {line['n']:,} "
            f"questions (kappa {line['kappa']:.2f})."
        )
    elif len(compared):
        low, high = (100 * compared["rate"].agg(end) for end in ("min", "max"))
        kappas = compared["kappa"].min(), compared["kappa"].max()
        yield (
            f"Judges agree with each other, or with themselves when asked again, on {low:.0f} to {high:.0f} % of the "
            f"questions (kappa {kappas[0]:.2f} to {kappas[1]:.2f}; {len(compared)} comparisons)."
        )


def _draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Draw a row for each comparison, from top to bottom."""
    axes = figure.add_subplot()
    lines = frame[frame["n"] > 0].head(_DRAWN)
    several = lines["model"].nunique() > 1
    places = np.arange(len(lines))[::-1]
    reach = error_bars(lines["rate"], lines["low"], lines["high"])
    axes.errorbar(
        lines["rate"], places, xerr=reach, fmt="o", color=COLOURS[0], markersize=3.5, elinewidth=0.8, capsize=1.5
    )
    axes.set_yticks(places, [_pair(line, several) for line in lines.to_dict("records")])
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.set_xlim(min(0.5, float(lines["low"].min())), 1.005)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("questions answered alike")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0, labelsize=6.5)


def _draw_by_layer(frame: pd.DataFrame, figure: Figure) -> None:
    axes = figure.add_subplot()
    layers = sorted(frame["layer"].unique().tolist())
    pairs = list(frame.groupby(["first", "second"], sort=False))
    aside = beside(layers)
    for place, (_, lines) in enumerate(pairs):
        lines = lines.sort_values("layer")
        at = lines["layer"] + aside * (place - (len(pairs) - 1) / 2)
        reach = error_bars(lines["rate"], lines["low"], lines["high"])
        label = _pair(lines.to_dict("records")[0], several=False)
        style: dict[str, Any] = {"color": COLOURS[place], "marker": MARKERS[place], "markersize": 3, "linewidth": 1}
        axes.errorbar(at, lines["rate"], reach, elinewidth=0.7, capsize=1.2, label=label, **style)
    set_layer_ticks(axes, layers, COLUMN_INCHES - 0.6)
    axes.set_ylim(min(0.5, float(frame["low"].min())), 1.01)
    rate_axis(axes)
    axes.set_xlabel("visual layer")
    axes.set_ylabel("answered alike")
    figure.legend(loc="outside upper center", ncols=1)


def _pair(line: dict[Any, Any], several: bool) -> str:
    """The names of the compared judges, and of the model if there are several."""
    first, second = str(line["first"]), str(line["second"])
    pair = f"{label_text(first, 18)} – {'itself' if first == second else label_text(second, 18)}"
    return f"{label_text(str(line['model']), 20)}\n{pair}" if several else pair
