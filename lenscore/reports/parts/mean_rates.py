"""Mean rates over layers by model and lens, with intervals and n, and the mean over models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pandas as pd

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.rate_differences import lead_sentence, reference_lens
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import FINDINGS, Table
from lenscore.statistics.grid import Grid
from lenscore.statistics.intervals import Mean, difference
from lenscore.statistics.sources import AnalyzeSource, Sources
from lenscore.statistics.summary import OTHER_PATCH, RANDOM_WORDS, Summary, lens_ahead, lenses_of

MEAN_RATE_COLUMNS = [
    *("model", "judge", "words", "lens", "control", "layers", "patches", "images", "answers", "rate", "low", "high"),
]
ABLATION_COLUMNS = [
    *("llm", "encoder", "model", "change", "judge", "words", "lens", "rate", "low", "high", "patches"),
    *("difference", "difference_low", "difference_high"),
]
ALL_MODELS = "mean of the models"


def judges_of(sources: Sources) -> list[tuple[str, int]]:
    """The (judge, number of words) pairs, most frequent first."""
    counts = Counter(judge.summary.asked for _, judge in sources.judged)
    return sorted(counts, key=lambda asked: -counts[asked])


def summary_by(source: AnalyzeSource, asked: tuple[str, int]) -> Summary | None:
    """The rates of a run for a (judge, number of words) pair; of several the first."""
    return next((judge.summary for judge in source.judges if judge.summary.asked == asked), None)


def mean_rate_tables(sources: Sources, grid: Grid) -> tuple[Table, ...]:
    """``headline``: models by lens, and the means over models of each judge; ``ablations``, if there are any.

    Layers have equal weights, and so have models. Models are fixed effects, not a sample; their intervals account for
    common images. Ablations enter no mean over models.
    """
    own = _own_models(sources, grid)
    groups = [(judge.summary.model, [judge.summary]) for source in own for judge in source.judges]
    groups += _means(sources, grid)
    lenses = lenses_of(summary for _, group in groups for summary in group)
    lines = [line for name, group in groups for lens in lenses for line in _lines(name, group, lens)]
    shown = [
        [
            name,
            *(_mean(group, [lens], "").as_share().shown for lens in lenses),
            *(_mean(group, lenses, control).as_share().shown for control in (OTHER_PATCH, RANDOM_WORDS)),
            str(sum(summary.judged for summary in group)),
        ]
        for name, group in groups
    ]
    headings = ["Model", *(title_of(lens) for lens in lenses), "other patch", "random words", "Patches"]
    headline = Table(
        "headline",
        "Mean over the layers of the rates of each lens, in percent with 95 % intervals.",
        pd.DataFrame(lines, columns=MEAN_RATE_COLUMNS),
        pd.DataFrame(shown, columns=headings),
    )
    ablations = _ablations_table(sources, grid)
    return (headline, ablations) if len(ablations.frame) else (headline,)


def rate_findings(sources: Sources, grid: Grid) -> Iterator[str]:
    """Sentences about each of up to three judge runs; of more, about the mean over models and the extremes.

    Of runs by the same judge on the same results, only the run with the most words is reported; see pass@k.
    """
    summaries = [
        judge.summary
        for source, judge in sources.judged
        if judge.summary.words
        == max(other.summary.words for other in source.judges if other.summary.judge == judge.summary.judge)
    ]
    means = _means(sources, grid)
    if len(summaries) <= FINDINGS or not means:
        for summary in summaries[:FINDINGS]:
            yield _rates_sentence(markdown_text(summary.model), [summary])
            if sentence := lead_sentence(summary):
                yield sentence
        if len(summaries) > FINDINGS:
            yield f"{len(summaries) - FINDINGS} more judge runs stand in the table of rates."
        return
    for name, group in means:
        yield _rates_sentence(f"Mean of {len(group)} models" + name.removeprefix(ALL_MODELS), group)
        rates, ahead, clearly = lens_ahead(group)
        if not rates:
            continue
        lens = rates[0][0]
        lowest, highest = (
            f"{markdown_text(summary.model)} with {summary.mean(lens).shown}"
            for summary in (end(group, key=lambda one: one.mean(lens).value) for end in (min, max))
        )
        yield (
            f"{markdown_text(title_of(lens))} is lowest for {lowest}, and highest for {highest}. "
            f"It is ahead of all other lenses in {ahead} of {len(group)} models, clearly in {clearly}."
        )


def one_run_a_model(sources: Sources, grid: Grid, asked: tuple[str, int]) -> list[Summary]:
    """The runs to average over models: the first run of each model with this judge, without ablations."""
    found: dict[str, Summary] = {}
    for source in _own_models(sources, grid):
        if summary := summary_by(source, asked):
            found.setdefault(source.results.model, summary)
    return list(found.values())


def _own_models(sources: Sources, grid: Grid) -> list[AnalyzeSource]:
    """All runs except ablations."""
    beside = {id(one.source) for one in grid.ablations}
    return [source for source in sources.analyses if id(source) not in beside]


def _means(sources: Sources, grid: Grid) -> list[tuple[str, list[Summary]]]:
    """For each judge of several models, the name of their mean and the summaries in it."""
    every = [(asked, one_run_a_model(sources, grid, asked)) for asked in judges_of(sources)]
    groups = [(asked, group) for asked, group in every if len(group) > 1]
    if len(groups) == 1:
        return [(ALL_MODELS, groups[0][1])]
    return [(f"{ALL_MODELS}, {judge}, {words} words", group) for (judge, words), group in groups]


def _ablations_table(sources: Sources, grid: Grid) -> Table:
    """Each ablation beside its cell, with the differences, paired by image."""
    lines, shown, name = [], [], ""
    for ablation in grid.ablations:
        for asked in judges_of(sources):
            base = summary_by(grid.cells[ablation.llm, ablation.encoder], asked)
            found = summary_by(ablation.source, asked)
            if base is None or found is None:
                continue
            cells, name = [], reference_lens(base)
            for lens in [lens for lens in base.lenses if lens in found.lenses]:
                changed, as_it_was = (one.answers.columns([lens], one.mean_layers) for one in (found, base))
                share = found.mean(lens)
                change = difference(changed, found.answers.images, as_it_was, base.answers.images)
                names = [ablation.llm, ablation.encoder, found.model, ablation.title, *asked, lens]
                lines.append([*names, *share[:4], *change[:3]])
                cells += [share.shown, change.shown_difference] if lens == name else []
            shown.append([base.model, ablation.title, *cells, str(found.judged)])
    lens = title_of(name) if name else ""
    return Table(
        "ablations",
        f"Models with one setting changed: mean over the layers of {lens}, and the difference from the model changed.",
        pd.DataFrame(lines, columns=ABLATION_COLUMNS),
        pd.DataFrame(shown, columns=["Model", "Change", lens, "Difference", "Patches"]) if lines else None,
    )


def _rates_sentence(name: str, group: Sequence[Summary]) -> str:
    lenses = lenses_of(group)
    means = {lens: _mean(group, [lens], "") for lens in lenses}
    ranked = sorted(lenses, key=lambda lens: -means[lens].value)
    rates = ", ".join(f"{markdown_text(title_of(lens))} {means[lens].as_share().shown}" for lens in ranked)
    named = {"other patches' words": OTHER_PATCH, "random words": RANDOM_WORDS}
    controls = {what: _mean(group, lenses, control) for what, control in named.items()}
    beside = " and ".join(f"{what} for {mean.as_share().shown}" for what, mean in controls.items() if mean.patches)
    layers = {len(summary.mean_layers) for summary in group}
    over = "at one layer" if layers == {1} else "on the mean over layers"
    patches = sum(summary.judged for summary in group)
    return f"{name}: {over}, words are right for these shares of {patches:,} patches: {rates}" + (
        f"; {beside}." if beside else "; no control was judged."
    )


def _lines(name: str, group: Sequence[Summary], lens: str) -> Iterator[list[object]]:
    for control in ("", OTHER_PATCH, RANDOM_WORDS):
        mean = _mean(group, [lens], control)
        if mean.patches:
            counts = [sum(len(summary.mean_layers) for summary in group), mean.patches, mean.images, mean.answers]
            yield [name, *group[0].asked, lens, control, *counts, *mean.as_share()[:3]]


def _mean(group: Sequence[Summary], lenses: Sequence[str], control: str) -> Mean:
    """The average over models of the means over layers and lenses."""
    means = [
        summary.answers.mean([lens for lens in lenses if lens in summary.lenses], summary.mean_layers, control)
        for summary in group
        if set(lenses) & set(summary.lenses)
    ]
    return Mean.average(means)
