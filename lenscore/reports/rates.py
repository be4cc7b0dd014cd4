"""How often a lens names what is there: rates by layer and lens for every judge run, beside its controls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import pandas as pd

from lenscore.reports.parts.mean_rates import headline_tables, judges_of, rate_findings, summary_by
from lenscore.reports.parts.rate_differences import leads_tables
from lenscore.reports.parts.rate_figures import draw_grid, draw_model, draw_panels, grid_size, model_size, panels_size
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import Plot, Section, Table
from lenscore.statistics.file_names import file_name
from lenscore.statistics.grid import Grid
from lenscore.statistics.sources import Sources
from lenscore.statistics.summary import (
    CONTROL_COLUMNS,
    HOW_IT_IS_COUNTED,
    SUMMARY_COLUMNS,
    Summary,
    summary_shown,
    what_is_counted,
)

_SHOWN_BY_LAYER = 2
"""Up to so many judge runs, report.md shows their rates by layer; of more only the means over the layers."""


def rates_section(sources: Sources) -> Section | None:
    """The rates of all judge runs; None without any."""
    judged = [(source, judge) for source in sources.analyses for judge in source.judges]
    if not judged:
        return None
    summaries = [judge.summary for _, judge in judged]
    grid = Grid.of(sources.analyses)
    shared = [*_grid_plots(sources, grid), *_panels_plot(sources, grid)]
    single = [_model_plot(summary) for summary in summaries]
    means = headline_tables(sources, grid)
    leads, lead = leads_tables(summaries)
    by_layer = [
        Table(
            f"rates-{file_name(summary.model)}",
            f"{summary.model}: rates by lens and layer with 95 % intervals (judge {summary.judge}).",
            summary.table,
            summary_shown(summary),
        )
        for summary in summaries
    ]
    tables = (
        Table("summary", "Rates by lens and layer.", _joined([one.table for one in summaries], SUMMARY_COLUMNS)),
        Table("controls", "Rates of the controls.", _joined([one.controls for one in summaries], CONTROL_COLUMNS)),
    )
    few = len(judged) <= _SHOWN_BY_LAYER
    return Section(
        "Rates",
        _what_is_counted(summaries),
        (*means, lead, leads, *tables, *by_layer),
        (*shared, *single),
        (*by_layer, lead) if len(judged) == 1 else (*means, *by_layer) if few else means,
        tuple(rate_findings(sources, grid)),
        tuple(single) if shared else (),
    )


def _what_is_counted(summaries: Sequence[Summary]) -> str:
    """A paragraph; where several runs count other things, a list of them before it."""
    counted = Counter(markdown_text(what_is_counted(summary)) for summary in summaries)
    if len(counted) == 1:
        return f"{next(iter(counted))}. {HOW_IT_IS_COUNTED}\n"
    listed = "".join(f"- {sentence}: {runs} judge run{'s' * (runs > 1)}.\n" for sentence, runs in counted.items())
    return f"{listed}\n{HOW_IT_IS_COUNTED}\n"


def _model_plot(summary: Summary) -> Plot:
    return Plot(
        f"rates-{file_name(summary.model)}",
        f"{summary.model}: rates by layer with 95 % intervals (judge {summary.judge}).",
        model_size(),
        partial(draw_model, summary),
        _drawn([summary]),
    )


def _grid_plots(sources: Sources, grid: Grid) -> Iterator[Plot]:
    """For each judge of at least two cells the grid, and the ablations beside the cells that they change."""
    for place, asked in enumerate(judges_of(sources)):
        judge, words = asked
        ending = f"-{file_name(judge)}-{words}" if place else ""
        by = f"95 % intervals (judge {judge}, {words} words)"
        cells = {cell: found for cell, source in grid.cells.items() if (found := summary_by(source, asked))}
        if len(cells) > 1:
            llms = [llm for llm in grid.llms if any(llm == row for row, _ in cells)]
            encoders = [encoder for encoder in grid.encoders if any(encoder == column for _, column in cells)]
            yield Plot(
                f"rates-grid{ending}",
                f"Rates by layer for each LLM (rows) and vision encoder (columns), {by}.",
                grid_size(len(llms), len(encoders)),
                partial(draw_grid, llms, encoders, cells),
                _drawn(list(cells.values())),
            )
        beside: list[tuple[str, Summary]] = []
        for cell, base in cells.items():
            changed = [
                (f"↳ {one.title}", found)
                for one in grid.ablations
                if (one.llm, one.encoder) == cell and (found := summary_by(one.source, asked))
            ]
            beside += [(base.model, base), *changed] if changed else []
        if beside:
            yield Plot(
                f"rates-ablations{ending}",
                f"Rates by layer of models with one setting changed, each behind the model it changes, {by}.",
                panels_size(len(beside)),
                partial(draw_panels, beside),
                _drawn([summary for _, summary in beside]),
            )


def _panels_plot(sources: Sources, grid: Grid) -> Iterator[Plot]:
    """All judge runs in one figure, where there are several; without those that the grid shows already."""
    shown = set()
    for asked in judges_of(sources):
        cells = [found for source in grid.cells.values() if (found := summary_by(source, asked))]
        beside = [found for one in grid.ablations if (found := summary_by(one.source, asked))]
        shown |= {id(summary) for summary in (cells if len(cells) > 1 or beside else []) + beside}
    summaries = [
        judge.summary for source in sources.analyses for judge in source.judges if id(judge.summary) not in shown
    ]
    if len(summaries) > 1 or (summaries and shown):
        yield Plot(
            "rates-models",
            "Rates by layer with 95 % intervals, one panel a model.",
            panels_size(len(summaries)),
            partial(draw_panels, [(summary.model, summary) for summary in summaries]),
            _drawn(summaries),
        )


def _drawn(summaries: Sequence[Summary]) -> pd.DataFrame:
    """What figures of rates draw."""
    return pd.concat([frame for one in summaries for frame in (one.table.assign(control=""), one.controls)])


def _joined(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True)[columns]
