"""Rates by layer and lens for every judge run, beside the controls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import pandas as pd

from lenscore.reports.parts.mean_rates import judges_of, mean_rate_tables, rate_findings, summary_by
from lenscore.reports.parts.rate_differences import difference_tables
from lenscore.reports.parts.rate_figures import MODEL_SIZE, draw_grid, draw_model, draw_panels, grid_size, panels_size
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import Plot, Section, Table
from lenscore.statistics.file_names import file_name
from lenscore.statistics.grid import Grid
from lenscore.statistics.sources import Sources
from lenscore.statistics.summary import HOW_IT_IS_COUNTED, Summary, left_out_of_means, summary_shown, what_is_counted

_SHOWN_BY_LAYER = 2
"""Up to this many judge runs, report.md shows rates by layer; of more only the means over layers."""


def rates_section(sources: Sources) -> Section | None:
    """The rates of all judge runs; None without judge runs."""
    summaries = [judge.summary for _, judge in sources.judged]
    if not summaries:
        return None
    grid = Grid.of(sources.analyses)
    shared = list(_shared_plots(sources, grid))
    single = [
        Plot(
            f"rates-{file_name(summary.model)}",
            f"{summary.model}: rates by layer with 95 % intervals (judge {summary.judge}).",
            MODEL_SIZE,
            partial(draw_model, summary),
            _drawn([summary]),
        )
        for summary in summaries
    ]
    means = mean_rate_tables(sources, grid)
    leads, lead = difference_tables(summaries)
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
        Table("summary", "Rates by lens and layer.", pd.concat([one.table for one in summaries], ignore_index=True)),
        Table("controls", "Rates of the controls.", pd.concat([one.controls for one in summaries], ignore_index=True)),
    )
    brief = means
    if len(summaries) <= _SHOWN_BY_LAYER:
        brief = (*by_layer, lead) if len(summaries) == 1 else (*means, *by_layer)
    return Section(
        "Rates",
        _what_is_counted(summaries),
        (*means, lead, leads, *tables, *by_layer),
        (*shared, *single),
        brief,
        tuple(rate_findings(sources, grid)),
        tuple(single) if shared else (),
    )


def _what_is_counted(summaries: Sequence[Summary]) -> str:
    """A paragraph; for runs with different definitions of the rate, a list of these before it."""
    counted = Counter(markdown_text(what_is_counted(summary)) for summary in summaries)
    how = f"{HOW_IT_IS_COUNTED} {left_out_of_means(summaries)}".rstrip()
    if len(counted) == 1:
        return f"{next(iter(counted))}. {how}\n"
    listed = "".join(f"- {sentence}: {runs} judge run{'s' * (runs > 1)}.\n" for sentence, runs in counted.items())
    return f"{listed}\n{how}\n"


def _shared_plots(sources: Sources, grid: Grid) -> Iterator[Plot]:
    """Figures of several judge runs: for each judge the grid and the ablations, then one of all other runs."""
    shown: list[Summary] = []
    for place, asked in enumerate(judges_of(sources)):
        judge, words = asked
        ending = f"-{file_name(judge)}-{words}" if place else ""
        by = f"95 % intervals (judge {judge}, {words} words)"
        cells = {cell: found for cell, source in grid.cells.items() if (found := summary_by(source, asked))}
        if len(cells) > 1:
            llms = [llm for llm in grid.llms if any(llm == row for row, _ in cells)]
            encoders = [encoder for encoder in grid.encoders if any(encoder == column for _, column in cells)]
            shown += cells.values()
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
            shown += [summary for _, summary in beside]
            yield Plot(
                f"rates-ablations{ending}",
                f"Rates by layer of models with one setting changed, each behind the model it changes, {by}.",
                panels_size(len(beside)),
                partial(draw_panels, beside),
                _drawn([summary for _, summary in beside]),
            )
    summaries = [judge.summary for _, judge in sources.judged if not any(judge.summary is one for one in shown)]
    if len(summaries) > 1 or (summaries and shown):
        yield Plot(
            "rates-models",
            "Rates by layer with 95 % intervals, one panel a model.",
            panels_size(len(summaries)),
            partial(draw_panels, [(summary.model, summary) for summary in summaries]),
            _drawn(summaries),
        )


def _drawn(summaries: Sequence[Summary]) -> pd.DataFrame:
    """The data of a figure of rates."""
    return pd.concat([frame for one in summaries for frame in (one.table.assign(control=""), one.controls)])
