"""How often a lens names what is there: rates by layer and lens for every judge run, beside its controls."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lenscore.reports.drawing import COLUMN_INCHES, lens_style
from lenscore.reports.file_names import file_name
from lenscore.reports.sections import Plot, Section, Table
from lenscore.reports.sources import AnalyzeSource, JudgeSource, Sources
from lenscore.reports.summary import (
    CONTROL_COLUMNS,
    OTHER_PATCH,
    RANDOM_WORDS,
    SUMMARY_COLUMNS,
    TITLES,
    Summary,
    summary_shown,
)
from lenscore.reports.tables import markdown, plain


def rates_section(sources: Sources) -> Section | None:
    """The rates of all judge runs; None without any."""
    judged = [(source, judge) for source in sources.analyses for judge in source.judges]
    if not judged:
        return None
    text, plots = [], []
    for source, judge in judged:
        summary = judge.summary
        rates = markdown(Table("", "", summary.table, summary_shown(summary)))
        text += [
            f"### {plain(summary.model)}\n",
            headline_sentence(source, judge) + "\n",
            rates,
            _lead_sentence(judge),
        ]
        plots.append(
            Plot(
                f"rates-{file_name(summary.model)}",
                f"{summary.model}: rates by layer with 95 % intervals (judge {summary.judge}).",
                (COLUMN_INCHES, 2.5),
                partial(_draw_rates, summary),
                pd.concat([summary.table.assign(control=""), summary.controls]),
            )
        )
    summaries = [judge.summary for _, judge in judged]
    tables = (
        Table("summary", "Rates by lens and layer.", _joined([one.table for one in summaries], SUMMARY_COLUMNS)),
        Table("controls", "Rates of the controls.", _joined([one.controls for one in summaries], CONTROL_COLUMNS)),
    )
    return Section("Rates", "\n".join(text), tables, tuple(plots))


def headline_sentence(source: AnalyzeSource, judge: JudgeSource) -> str:
    """What the table of rates counts."""
    images = judge.verdicts["image_id"].nunique()
    words = judge.top_k or source.results.top_k
    return (
        f"Share of {judge.summary.judged} sampled patches of {images} images for which one of the {words} best words "
        f"is right (judge {judge.summary.judge}), with 95\u00a0% intervals in percent. The controls are judged on the "
        "same patches: words of the same lens and layer from a patch of another image, and random words (chance)."
    )


def _lead_sentence(judge: JudgeSource) -> str:
    """Where the first lens lies clearly ahead: its interval above those of all others."""
    summary = judge.summary
    if len(summary.lenses) < 2:
        return ""
    first, *others = summary.lenses
    ahead = [
        layer
        for layer in summary.layers
        if all(summary.rate(first, layer).low > summary.rate(lens, layer).high for lens in others)
    ]
    where = f"at layers {', '.join(map(str, ahead))}" if ahead else "at no layer"
    return f"The interval of {first} lies above those of all other lenses {where} (of {len(summary.layers)}).\n"


def _draw_rates(summary: Summary, figure: Figure) -> None:
    """Rate by layer for every lens with 95 % intervals, other patches' words and chance."""
    axes = figure.add_subplot()
    places = np.arange(len(summary.layers))
    width = 0.12
    for turn, lens in enumerate(summary.lenses):
        colour, marker = lens_style(lens, summary.lenses)
        rates = [summary.rate(lens, layer) for layer in summary.layers]
        middle = np.array([rate.rate for rate in rates])
        reach = np.array([[rate.rate - rate.low, rate.high - rate.rate] for rate in rates]).T.clip(min=0)
        at = places + width * (turn - (len(summary.lenses) - 1) / 2)
        axes.errorbar(at, middle, reach, color=colour, elinewidth=0.8, capsize=1.5, linestyle="none")
        axes.plot(at, middle, color=colour, marker=marker, markersize=3.5, linewidth=1.2, label=TITLES.get(lens, lens))
        others = [summary.control(OTHER_PATCH, lens, layer).rate for layer in summary.layers]
        axes.plot(at, others, color=colour, linewidth=0.8, linestyle=(0, (1, 1.5)))
    axes.plot([], [], color="#555555", linewidth=0.8, linestyle=(0, (1, 1.5)), label="other patch's words")
    chance = [summary.control(RANDOM_WORDS, layer=layer).rate for layer in summary.layers]
    axes.plot(places, chance, color="#000000", linewidth=0.9, linestyle="--", label="random words (chance)")
    axes.set_xticks(places, [str(layer) for layer in summary.layers])
    axes.set_xlabel("visual layer")
    axes.set_ylabel("patches named rightly")
    axes.set_ylim(0, 1 if float(summary.table["high"].max()) > 0.75 else None)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i].endswith(("words", "(chance)")))
    chosen = [handles[i] for i in order], [labels[i] for i in order]
    figure.legend(*chosen, loc="outside upper center", ncols=2)


def _joined(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True)[columns]
