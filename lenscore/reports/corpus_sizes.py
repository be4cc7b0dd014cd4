"""Rates of one model with stores of different corpus size: the amount of text that LatentLens needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from lenscore.readings.lens_titles import LATENT, title_of
from lenscore.reports.parts.drawing import COLUMN_INCHES, PAGE_INCHES, lens_style, title_text
from lenscore.reports.parts.layer_plots import draw_rates, label_figure, lens_handles, rate_axis, small_multiples
from lenscore.reports.parts.mean_rates import judges_of, summary_by
from lenscore.reports.parts.rate_figures import panel_inches
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import Plot, Section, Table
from lenscore.statistics.sources import AnalyzeSource, Sources, model_label
from lenscore.statistics.summary import Summary, left_out_of_means, lenses_of
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder

SIZE_COLUMNS = [
    *("model", "judge", "words", "corpus", "corpus_hash", "fraction", "limit", "per_token", "sentences", "rows"),
    *("lens", "layers", "patches", "images", "rate", "low", "high"),
]
_PART = ("fraction", "limit")
_NOT_OF_THE_CORPUS = {*_PART, "corpus", "model", "rows_per_shard", "batch_tokens", "trust_remote_code"}


@dataclass(frozen=True)
class Corpus:
    """The corpus of a store.

    ``sentences`` is the number of sentences read, ``rows`` the number of contextual embeddings. Two stores whose
    ``alike`` is equal differ in corpus size alone.
    """

    files: str
    sha256: str
    fraction: float
    limit: int | None
    per_token: int
    sentences: int
    rows: int
    alike: str


def corpus_of(source: AnalyzeSource) -> Corpus | None:
    """The corpus of a run's store; None without a store, if it was deleted, or if it has no record (converted ones)."""
    entry = source.results.run.inputs.get("store")
    if LATENT not in source.results.lenses or not entry:
        return None
    try:
        run = RunFolder.open(entry["path"], "extract")
    except InputError:
        return None  # report.md says that the store was deleted
    plan, inputs = run.require_plan(), run.inputs.get("corpus", {})
    if run.run_id != entry["run_id"] or "sentences_read" not in plan.facts or "fraction" not in run.config:
        return None
    alike = {name: value for name, value in run.config.items() if name not in _NOT_OF_THE_CORPUS}
    return Corpus(
        files=", ".join(Path(file).name for file in (*run.config.get("add", []), *inputs.get("files", ()))),
        sha256=str(inputs.get("sha256", "")),
        fraction=run.config["fraction"],
        limit=run.config.get("limit"),
        per_token=run.config["per_token"],
        sentences=plan.facts["sentences_read"],
        rows=plan.items,
        alike=repr(sorted(alike.items())),
    )


def corpus_section(sources: Sources) -> Section | None:
    """The rates against corpus size of every model with stores of different size; None without such a model."""
    groups = list(_groups(sources))
    if not groups:
        return None
    frame = pd.DataFrame([line for group in groups for line in _lines(*group)], columns=SIZE_COLUMNS)
    caption = "Mean over layers of the rates by number of sentences in the store's corpus, with 95 % intervals."
    table = Table("corpus-size", caption, frame, _shown(groups))
    columns = min(3, len(groups))
    size = (PAGE_INCHES if columns > 1 else COLUMN_INCHES), 0.7 + 1.7 * ceil(len(groups) / columns)
    plot = Plot("corpus-size", caption, size, partial(_draw, groups), frame)
    text = (
        "Runs of the same model on stores that differ in how much text they were made from. Lenses that search no "
        "store see the same in all of them. Points are joined only where nothing but the share of one corpus differs.\n"
    )
    if left_out := left_out_of_means(summary for _, points in groups for _, summary in points):
        text += f"\n{left_out}\n"
    return Section("Corpus size", text, (table,), (plot,), (table,), tuple(map(_finding, groups)))


_Point = tuple[Corpus, Summary]
_Group = tuple[str, list[_Point]]


def _groups(sources: Sources) -> Iterator[_Group]:
    """For each model and judge with several corpus sizes, its runs in the order of size."""
    models: dict[str, list[tuple[Corpus, AnalyzeSource]]] = {}
    for source in sources.analyses:
        if corpus := corpus_of(source):
            models.setdefault(source.results.model, []).append((corpus, source))
    for model, runs in models.items():
        judges = [asked for asked in judges_of(sources) if any(summary_by(source, asked) for _, source in runs)]
        for asked in judges:
            points = [(corpus, found) for corpus, source in runs if (found := summary_by(source, asked))]
            points.sort(key=lambda point: (point[0].sentences, point[0].rows))
            if len({corpus.sentences for corpus, _ in points}) > 1:
                name = model_label(model)
                yield (name if len(judges) == 1 else f"{name}, {asked[0]}, {asked[1]} words"), points


def _lines(name: str, points: Sequence[_Point]) -> Iterator[list[object]]:
    for corpus, summary in points:
        about = [corpus.files, corpus.sha256[:16], corpus.fraction, corpus.limit, corpus.per_token]
        for lens in summary.lenses:
            *rate, patches, images = summary.mean(lens)
            counts = [corpus.sentences, corpus.rows, lens, len(summary.mean_layers), patches, images]
            yield [name, *summary.asked, *about, *counts, *rate]


def _shown(groups: Sequence[_Group]) -> pd.DataFrame:
    lenses = lenses_of(summary for _, points in groups for _, summary in points)
    lines = []
    for name, points in groups:
        for corpus, summary in points:
            cells = [summary.mean(lens).shown if lens in summary.lenses else "–" for lens in lenses]
            sizes = [f"{corpus.sentences:,}", f"{corpus.rows:,}"]
            lines.append([name, corpus.files, *sizes, *cells, str(summary.judged)])
    titles = [title_of(lens) for lens in lenses]
    return pd.DataFrame(lines, columns=["Model", "Corpus", "Sentences", "Rows", *titles, "Patches"])


def _finding(group: _Group) -> str:
    name, points = group
    (small, first), (large, last) = points[0], points[-1]
    return (
        f"{markdown_text(name)}: with {small.sentences:,} sentences in the store LatentLens is right for "
        f"{first.mean(LATENT).shown}, with {large.sentences:,} for {last.mean(LATENT).shown}."
    )


def _draw(groups: Sequence[_Group], figure: Figure) -> None:
    columns = min(3, len(groups))
    grid = small_multiples(figure, len(groups), columns)
    lenses = lenses_of(summary for _, points in groups for _, summary in points)
    for axes, (name, points) in zip(grid, groups, strict=True):
        alike = len({(corpus.sha256, corpus.alike) for corpus, _ in points}) == 1
        for lens in lenses:
            drawn = [(corpus.sentences, summary.mean(lens)[:3]) for corpus, summary in points if lens in summary.lenses]
            sizes, rates = [size for size, _ in drawn], [rate for _, rate in drawn]
            draw_rates(axes, sizes, rates, *lens_style(lens, lenses), linestyle="-" if alike else "none")
        axes.set_xscale("log")
        sizes = sorted({corpus.sentences for corpus, _ in points})
        axes.set_xticks(sizes, minor=False)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _brief(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)
        rate_axis(axes)
        if len(groups) > 1:
            axes.set_title(title_text(name, panel_inches(figure, columns)), fontsize=7, pad=3)
    every = [summary.mean(lens).high for _, points in groups for _, summary in points for lens in summary.lenses]
    grid[0].set_ylim(0, min(1.0, 1.05 * max(every)))
    label_figure(figure, "sentences in the corpus of the store", "patches named rightly")
    figure.legend(handles=lens_handles(grid[0], lenses), loc="outside upper center", ncols=3, columnspacing=1)


def _brief(number: float) -> str:
    """A size in short: 300, 30 k, 3 M."""
    for unit, sign in ((1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{sign}"
    return f"{number:.0f}"
