"""How many of a lens's words one has to look at: pass@k, the share of patches with a right word among the first k.

It is counted in the verdicts on all words together, by which words fit and where they stand. A judge that sees five
words may say something else of the first than one that sees it alone: judge runs with other ``--top-k`` on the same
results show how much that changes, and stand in a table of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from math import ceil, nan
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import COLUMN_INCHES, PAGE_INCHES, label_text, lens_style, title_text
from lenscore.reports.parts.mean_rates import judges_of, one_run_a_model
from lenscore.reports.parts.rate_figures import panel_columns, panel_inches
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import Plot, Section, Table
from lenscore.statistics.grid import Grid
from lenscore.statistics.intervals import Estimate, Mean, difference
from lenscore.statistics.patch_answers import Answers, both_answered
from lenscore.statistics.sources import AnalyzeSource, JudgeSource, Sources
from lenscore.statistics.summary import Summary

PASS_COLUMNS = ["model", "judge", "words", "lens", "k", "rate", "low", "high", "patches", "images"]
ASKED_COLUMNS = [
    *("model", "beside", "judge", "lens", "k", "words", "alone", "among", "difference", "low", "high", "patches"),
]
_SHOWN = 3
"""Up to so many judge runs, report.md shows the table by model."""
_PANELS = 4
"""Up to so many models, report.md shows the figure."""


@dataclass(frozen=True)
class Passes:
    """pass@k of one judge run: ``answers[k - 1]`` says whether one of the first k words fits."""

    summary: Summary
    answers: tuple[Answers, ...]

    @property
    def model(self) -> str:
        """How the judge run is called."""
        return self.summary.model

    @property
    def lenses(self) -> list[str]:
        """Of the run, in order."""
        return self.summary.lenses

    @property
    def words(self) -> int:
        """How many words were judged together: the largest k."""
        return len(self.answers)

    def mean(self, lens: str, k: int) -> Mean:
        """Over all layers."""
        return self.answers[k - 1].mean([lens], self.summary.layers)


def passes_of(source: AnalyzeSource, judge: JudgeSource) -> Passes:
    """Count the ranks of the fitting words in the verdicts of a run."""
    own = judge.verdicts[judge.verdicts["control"] == ""]
    # The truth and the reading of replies spell fitting words as the candidates are spelled.
    ranks = [
        next((rank for rank, word in enumerate(words) if word in set(fitting)), len(words))
        for words, fitting in zip(own["candidates"], own["fitting"], strict=True)
    ]
    rank = np.array(ranks, dtype=np.int64)
    images = dict(zip(*source.results.images().select(["image_id", "sha256"]).to_pydict().values(), strict=True))
    answered = own["outcome"].isin(["yes", "no"])
    answers = []
    for k in range(1, judge.summary.words + 1):
        passed = (own["outcome"] == "yes") & (rank < k)
        outcome = passed.map({True: "yes", False: "no"}).where(answered, own["outcome"])
        answers.append(Answers.of(own.assign(outcome=outcome), images))
    return Passes(judge.summary, tuple(answers))


def pass_section(sources: Sources) -> Section | None:
    """pass@k of all judge runs of more than one word; None without any."""
    every = [(source, passes_of(source, judge)) for source in sources.analyses for judge in source.judges]
    several = [passes for _, passes in every if passes.words > 1]
    if not several:
        return None
    frame = pd.DataFrame([line for passes in several for line in _lines(passes)], columns=PASS_COLUMNS)
    asked = pd.DataFrame(_asked_otherwise(every), columns=ASKED_COLUMNS)
    caption = "pass@k: share of patches with a right word among the first k, mean over layers, 95 % intervals."
    grid = Grid.of(sources.analyses)
    compared = {id(summary) for asked in judges_of(sources) for summary in one_run_a_model(sources, grid, asked)}
    main = [passes for passes in several if id(passes.summary) in compared and passes.words == several[0].words]
    tables = [Table("pass-at-k", caption, frame, _shown(several, main))]
    if len(asked):
        about = "The first words judged alone and among more: rates on the mean over layers, and their difference."
        tables.append(Table("top-k", about, asked, _asked_shown(asked)))
    columns = panel_columns(len(several))
    size = (
        PAGE_INCHES if columns > 2 else COLUMN_INCHES,
        0.65 + (1.6 if columns < 3 else 1.35) * ceil(len(several) / columns),
    )
    names = [passes.model for passes in main]
    alone = asked[asked["beside"].isin(names)].assign(words=lambda lines: lines["k"], rate=lambda lines: lines["alone"])
    drawn = pd.concat(
        [frame[frame["model"].isin(names)], alone.reindex(columns=PASS_COLUMNS).assign(low=nan, high=nan)]
    )
    plot = Plot("pass-at-k", caption, size, partial(_draw, main, asked), drawn)
    details = (plot,) if len(main) > _PANELS else ()
    text = (
        "Counted in the verdicts on all words together: a patch passes at k if one of the first k words that the judge "
        "saw is among those that fit. A judge that sees several words may say something else of one of them than a "
        "judge that sees it alone; a candidate without a readable word is not shown to judges and has no rank.\n"
    )
    return Section(
        "First word and first words", text, tuple(tables), (plot,), tuple(tables), tuple(_findings(main)), details
    )


def _lines(passes: Passes) -> list[list[object]]:
    lines: list[list[object]] = []
    for lens in passes.lenses:
        for k in range(1, passes.words + 1):
            rate = passes.mean(lens, k).as_share()
            numbers = [rate.value, rate.low, rate.high, rate.patches, rate.images]
            lines.append([passes.model, passes.summary.judge, passes.words, lens, k, *numbers])
    return lines


def _shown(several: Sequence[Passes], main: Sequence[Passes]) -> pd.DataFrame:
    """Each run by lens; of many runs the mean of those that may be averaged."""
    most = max(passes.words for passes in several)
    groups = [(passes.model, [passes]) for passes in several]
    if len(several) > _SHOWN:
        groups = [(f"mean of {len(main)} models" if len(main) > 1 else main[0].model, list(main))]
    lines = []
    for name, group in groups:
        for lens in dict.fromkeys(lens for passes in group for lens in passes.lenses):
            cells = [
                Mean.average([p.mean(lens, k) for p in group if lens in p.lenses and k <= p.words]).as_share().shown
                for k in range(1, most + 1)
            ]
            lines.append([name, title_of(lens), *cells])
    return pd.DataFrame(lines, columns=["Model", "Lens", *(f"pass@{k}" for k in range(1, most + 1))])


def _asked_otherwise(every: Sequence[tuple[AnalyzeSource, Passes]]) -> list[list[object]]:
    """For two judge runs on the same results: k words judged alone, and among more."""
    lines: list[list[object]] = []
    for (source, few), (other, many) in permutations(every, 2):
        if source is not other or few.summary.judge != many.summary.judge or few.words >= many.words:
            continue
        alone, among = few.answers[-1], many.answers[few.words - 1]
        shared = [patch for patch in alone.patches if patch in set(among.patches)]
        if not shared:
            continue
        images = dict(zip(alone.patches, alone.images, strict=True))
        layers = [layer for layer in few.summary.layers if layer in many.summary.layers]
        for lens in [lens for lens in few.lenses if lens in many.lenses]:
            one, two = both_answered(*(_rows(answers, shared).columns([lens], layers) for answers in (alone, among)))
            names = [images[patch] for patch in shared]
            rates = [Mean.of(values, names).value for values in (one, two)]
            change = difference(one, names, two, names)
            numbers = [change.value, change.low, change.high, change.patches]
            lines.append([few.model, many.model, few.summary.judge, lens, few.words, many.words, *rates, *numbers])
    return lines


def _rows(answers: Answers, patches: Sequence[tuple[int, ...]]) -> Answers:
    """The answers about some patches, in their order."""
    place = {patch: i for i, patch in enumerate(answers.patches)}
    rows = [place[patch] for patch in patches]
    return Answers(tuple(patches), tuple(answers.images[i] for i in rows), answers.places, answers.yes[rows])


def _asked_shown(asked: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for line in asked.to_dict("records"):
        change = Estimate(line["difference"], line["low"], line["high"], line["patches"], 0)
        rates = [f"{100 * line[name]:.0f} %" for name in ("alone", "among")]
        lens = title_of(line["lens"])
        lines.append([line["model"], lens, f"{line['k']} of {line['words']}", *rates, change.shown_difference])
    return pd.DataFrame(lines, columns=["Model", "Lens", "Words", "Judged alone", "Judged among all", "Difference"])


def _findings(main: Sequence[Passes]) -> list[str]:
    """The first word beside all, for the first lens of one run or the mean of several."""
    lens = main[0].lenses[0]
    group = [passes for passes in main if lens in passes.lenses]
    words = min(passes.words for passes in group)
    first, every = (Mean.average([passes.mean(lens, k) for passes in group]).as_share() for k in (1, words))
    who = markdown_text(main[0].model) if len(main) == 1 else f"Mean of {len(group)} models"
    name = markdown_text(title_of(lens))
    return [
        f"{who}: the first word of {name} alone is right for {first.shown}, one of the first {words} for {every.shown}."
    ]


def _draw(several: Sequence[Passes], asked: pd.DataFrame, figure: Figure) -> None:
    columns = panel_columns(len(several))
    panels = np.atleast_1d(figure.subplots(ceil(len(several) / columns), columns, sharey=True)).ravel()
    lenses = list(dict.fromkeys(lens for passes in several for lens in passes.lenses))
    for axes, passes in zip(panels, several, strict=False):
        _draw_panel(axes, passes, lenses)
        if len(several) > 1:
            axes.set_title(title_text(passes.model, panel_inches(figure, columns)), fontsize=7, pad=3)
        for line in asked[asked["beside"] == passes.model].to_dict("records"):
            colour, marker = lens_style(line["lens"], lenses)
            axes.plot(
                line["k"], line["alone"], marker, color=colour, fillstyle="none", markersize=5.5, markeredgewidth=0.8
            )
    highest = max(passes.mean(lens, passes.words).as_share().high for passes in several for lens in passes.lenses)
    panels[0].set_ylim(0, min(1.0, 1.05 * highest) if highest == highest else 1.0)
    for axes in panels[len(several) :]:
        axes.remove()
    figure.supxlabel("first k words", fontsize=8)
    figure.supylabel("patches with a right one", fontsize=8)
    handles = []
    for lens in lenses:
        colour, marker = lens_style(lens, lenses)
        style = {"color": colour, "marker": marker, "markersize": 3.5, "markeredgewidth": 0, "linewidth": 1}
        handles += panels[0].plot([], [], label=label_text(title_of(lens)), **style)
    if asked["beside"].isin([passes.model for passes in several]).any():
        hollow: dict[str, Any] = {"fillstyle": "none", "markersize": 5.5, "markeredgewidth": 0.8}
        handles += panels[0].plot([], [], "o", color="#555555", label="judged alone", **hollow)
    figure.legend(handles=handles, loc="outside upper center", ncols=min(3, len(handles)), columnspacing=1)


def _draw_panel(axes: Axes, passes: Passes, lenses: Sequence[str]) -> None:
    ks = np.arange(1, passes.words + 1)
    for turn, lens in enumerate(passes.lenses):
        colour, marker = lens_style(lens, lenses)
        rates = [passes.mean(lens, int(k)).as_share() for k in ks]
        middle = np.array([rate.value for rate in rates])
        reach = np.array([[rate.value - rate.low, rate.high - rate.value] for rate in rates]).T.clip(min=0)
        at = ks + 0.06 * (turn - (len(passes.lenses) - 1) / 2)
        axes.errorbar(at, middle, reach, color=colour, elinewidth=0.7, capsize=1.2, capthick=0.5, fmt="none")
        axes.plot(at, middle, color=colour, marker=marker, markersize=3.2, markeredgewidth=0, linewidth=1)
    axes.set_xticks(ks)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    axes.tick_params(width=0.5, length=2, pad=1.5)
