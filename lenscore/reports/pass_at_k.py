"""pass@k: the share of patches with a right word among the first k words of a lens.

It is counted in the verdicts on all words together, from the rank of the fitting words. A judge may answer otherwise
about a word that it sees alone: judge runs with other ``--top-k`` on the same results show by how much, in a second
table.
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
from matplotlib.figure import Figure

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import COLUMN_INCHES, PAGE_INCHES, lens_style, title_text
from lenscore.reports.parts.layer_plots import draw_rates, label_figure, lens_handles, rate_axis, small_multiples
from lenscore.reports.parts.mean_rates import judges_of, one_run_a_model
from lenscore.reports.parts.rate_figures import panel_columns, panel_inches
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import Plot, Section, Table
from lenscore.statistics.grid import Grid
from lenscore.statistics.intervals import Mean, difference, difference_text
from lenscore.statistics.patch_answers import Answers, both_answered
from lenscore.statistics.sources import AnalyzeSource, JudgeSource, Sources
from lenscore.statistics.summary import Summary, left_out_of_means, lenses_of

PASS_COLUMNS = ["model", "judge", "words", "lens", "k", "rate", "low", "high", "patches", "images"]
ASKED_COLUMNS = [
    *("model", "beside", "judge", "lens", "k", "words", "alone", "among", "difference", "low", "high", "patches"),
]
_SHOWN = 3
"""Up to this many judge runs, report.md shows the table by model."""
_PANELS = 4
"""Up to this many models, report.md shows the figure."""


@dataclass(frozen=True)
class Passes:
    """pass@k of one judge run; ``answers[k - 1]`` says for each patch whether one of the first k words fits."""

    summary: Summary
    answers: tuple[Answers, ...]

    @property
    def words(self) -> int:
        """The number of words that were judged together: the largest k."""
        return len(self.answers)

    def mean(self, lens: str, k: int) -> Mean:
        """The mean over `Summary.mean_layers`."""
        return self.answers[k - 1].mean([lens], self.summary.mean_layers)


def passes_of(judge: JudgeSource) -> Passes:
    """Count the ranks of the fitting words in the verdicts of a run."""
    own = judge.verdicts[judge.verdicts["control"] == ""]
    # The truth and the reading of replies spell fitting words as the candidates are spelled.
    ranks = [
        next((rank for rank, word in enumerate(words) if word in set(fitting)), len(words))
        for words, fitting in zip(own["candidates"], own["fitting"], strict=True)
    ]
    known = judge.summary.answers
    images = {patch[0]: image for patch, image in zip(known.patches, known.images, strict=True)}
    answers = []
    for k in range(1, judge.summary.words + 1):
        outcome = own["outcome"].mask((own["outcome"] == "yes") & (np.array(ranks) >= k), "no")
        answers.append(Answers.of(own.assign(outcome=outcome), images))
    return Passes(judge.summary, tuple(answers))


def pass_section(sources: Sources) -> Section | None:
    """pass@k of all judge runs of more than one word; None without any."""
    every = [(source, passes_of(judge)) for source, judge in sources.judged]
    several = [passes for _, passes in every if passes.words > 1]
    if not several:
        return None
    lines = [
        [one.summary.model, one.summary.judge, one.words, lens, k, *one.mean(lens, k).as_share()]
        for one in several
        for lens in one.summary.lenses
        for k in range(1, one.words + 1)
    ]
    frame = pd.DataFrame(lines, columns=PASS_COLUMNS)
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
    names = [passes.summary.model for passes in main]
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
    if left_out := left_out_of_means(passes.summary for passes in several):
        text += f"\n{left_out}\n"
    return Section(
        "First word and first words", text, tuple(tables), (plot,), tuple(tables), tuple(_findings(main)), details
    )


def _shown(several: Sequence[Passes], main: Sequence[Passes]) -> pd.DataFrame:
    """Each run by lens; of many runs the mean of the runs that may be averaged."""
    most = max(passes.words for passes in several)
    groups = [(passes.summary.model, [passes]) for passes in several]
    if len(several) > _SHOWN:
        groups = [(f"mean of {len(main)} models" if len(main) > 1 else main[0].summary.model, list(main))]
    lines = []
    for name, group in groups:
        for lens in lenses_of(passes.summary for passes in group):
            having = [passes for passes in group if lens in passes.summary.lenses]
            cells = [
                Mean.average([one.mean(lens, k) for one in having if k <= one.words]).as_share().shown
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
        place = {patch: i for i, patch in enumerate(among.patches)}
        shared = [i for i, patch in enumerate(alone.patches) if patch in place]
        if not shared:
            continue
        images = [alone.images[i] for i in shared]
        there = [place[alone.patches[i]] for i in shared]
        layers = [layer for layer in few.summary.mean_layers if layer in many.summary.mean_layers]
        for lens in [lens for lens in few.summary.lenses if lens in many.summary.lenses]:
            one, two = both_answered(alone.columns([lens], layers)[shared], among.columns([lens], layers)[there])
            names = [few.summary.model, many.summary.model, few.summary.judge, lens, few.words, many.words]
            rates = [Mean.of(values, images).value for values in (one, two)]
            lines.append([*names, *rates, *difference(one, images, two, images)[:4]])
    return lines


def _asked_shown(asked: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for line in asked.to_dict("records"):
        change = difference_text(line["difference"], line["low"], line["high"]) if line["patches"] else "–"
        rates = [f"{100 * line[name]:.0f} %" for name in ("alone", "among")]
        lines.append([line["model"], title_of(line["lens"]), f"{line['k']} of {line['words']}", *rates, change])
    return pd.DataFrame(lines, columns=["Model", "Lens", "Words", "Judged alone", "Judged among all", "Difference"])


def _findings(main: Sequence[Passes]) -> list[str]:
    """The first word beside all words, for the first lens of one run or the mean of several runs."""
    lens = main[0].summary.lenses[0]
    group = [passes for passes in main if lens in passes.summary.lenses]
    words = min(passes.words for passes in group)
    first, every = (Mean.average([passes.mean(lens, k) for passes in group]).as_share() for k in (1, words))
    who = markdown_text(main[0].summary.model) if len(main) == 1 else f"Mean of {len(group)} models"
    name = markdown_text(title_of(lens))
    return [
        f"{who}: the first word of {name} alone is right for {first.shown}, one of the first {words} for {every.shown}."
    ]


def _draw(several: Sequence[Passes], asked: pd.DataFrame, figure: Figure) -> None:
    columns = panel_columns(len(several))
    grid = small_multiples(figure, len(several), columns)
    lenses = lenses_of(passes.summary for passes in several)
    hollow: dict[str, Any] = {"fillstyle": "none", "markersize": 5.5, "markeredgewidth": 0.8}
    for axes, passes in zip(grid, several, strict=True):
        own, ks = passes.summary.lenses, np.arange(1, passes.words + 1)
        for turn, lens in enumerate(own):
            rates = [passes.mean(lens, int(k)).as_share()[:3] for k in ks]
            draw_rates(axes, ks + 0.06 * (turn - (len(own) - 1) / 2), rates, *lens_style(lens, lenses))
        axes.set_xticks(ks)
        rate_axis(axes)
        axes.tick_params(width=0.5, length=2, pad=1.5)
        if len(several) > 1:
            axes.set_title(title_text(passes.summary.model, panel_inches(figure, columns)), fontsize=7, pad=3)
        for line in asked[asked["beside"] == passes.summary.model].to_dict("records"):
            colour, marker = lens_style(line["lens"], lenses)
            axes.plot(line["k"], line["alone"], marker, color=colour, **hollow)
    every = [one.mean(lens, one.words).as_share().high for one in several for lens in one.summary.lenses]
    grid[0].set_ylim(0, min(1.0, 1.05 * max(every)) if max(every) == max(every) else 1.0)
    label_figure(figure, "first k words", "patches with a right one")
    handles = lens_handles(grid[0], lenses)
    if asked["beside"].isin([passes.summary.model for passes in several]).any():
        handles += grid[0].plot([], [], "o", color="#555555", label="judged alone", **hollow)
    figure.legend(handles=handles, loc="outside upper center", ncols=min(3, len(handles)), columnspacing=1)
