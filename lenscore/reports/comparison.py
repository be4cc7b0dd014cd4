"""Rates beside published rates, with the differences and their intervals."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import lens_style
from lenscore.reports.parts.layer_plots import draw_band, label_figure, panels, panels_size, percent_axis, set_layers
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import FINDINGS, Plot, Section, Table
from lenscore.statistics.intervals import Rate, difference_text, points, share_text
from lenscore.statistics.sources import AnalyzeSource, JudgeSource, Sources
from lenscore.statistics.summary import left_out_of_means

if TYPE_CHECKING:  # of Pydantic, which takes long to load
    from lenscore.statistics.published_rates import Published, PublishedModel, PublishedRate

COMPARISON_COLUMNS = ["model", "judge", "published_model", "lens", "layer", "top_k", "n", "rate", "low", "high"]
COMPARISON_COLUMNS += ["published_n", "published_rate", "difference", "difference_low", "difference_high"]
COMPARISON_COLUMNS += ["interval_of", "source", "note"]

BOTH, OURS = "both", "ours alone"
_PUBLISHED: dict[str, Any] = {"linewidth": 0.8, "linestyle": "--", "markerfacecolor": "none", "markersize": 3.5}
_COMMON = "mean over the layers of both"


def comparison_section(sources: Sources) -> Section | None:
    """All judge runs beside the published table; None without a table or judge runs."""
    table = sources.published
    if table is None or not sources.judged:
        return None
    frame = compare(sources, table)
    judge_of_it = f" (judge: {markdown_text(table.judge)})" if table.judge else ""
    text = [
        f"Published: {markdown_text(table.title)}{judge_of_it}. Compare rates only as far as judges, images and "
        "corpora are the same. Where the published n is known, the interval of a difference is Newcombe's for two "
        "proportions; else it is that of our rate alone, as if the published one were exact.\n",
        *_unmatched(sources, table),
    ]
    if left_out := left_out_of_means(judge.summary for _, judge in sources.judged):
        text.append(f"{left_out}\n")
    if frame.empty:
        return Section("Comparison with published rates", "\n".join(text))
    caption = "Our rates and the published ones; differences with 95 % intervals."
    plot = Plot(
        "comparison",
        "Our rates (filled, with 95 % intervals) and the published ones (open, dashed).",
        panels_size(frame.loc[frame["layer"].notna(), "model"].nunique()),
        partial(_draw, frame),
        frame,
    )
    means = frame[frame["layer"].isna()]
    brief = Table("comparison-means", "Means over layers, ours and the published ones.", means, _shown(means))
    plots = (plot,) if frame["layer"].notna().any() else ()
    tables = (Table("comparison", caption, frame, _shown(frame)), brief)
    findings = tuple(_findings(means))
    return Section("Comparison with published rates", "\n".join(text), tables, plots, (brief,), findings)


def compare(sources: Sources, table: Published) -> pd.DataFrame:
    """Each published rate with the same model, lens, layer and number of words as a rate of the runs.

    Returns the columns ``COMPARISON_COLUMNS``. A published mean over layers (``layer`` empty) is compared with the mean
    over the layers of the run. For published rates by layer there is also the mean over the common layers. Means are of
    `Summary.mean_layers`.
    """
    lines = []
    for source, judge in sources.judged:
        for name in (name for name, model in table.models.items() if is_ours(model, source)):
            entries = [rate for rate in table.rates if rate.model == name and _fits(rate, judge)]
            entries.sort(key=lambda rate: judge.summary.lenses.index(rate.lens))
            lines += [_line(judge, rate) for rate in entries]
            lines += _common_means(judge, entries)
    frame = pd.DataFrame(lines, columns=COMPARISON_COLUMNS)
    whole = {"layer": "Int64", "published_n": "Int64"}
    return frame.assign(source=frame["source"].map(dict(table.sources))).astype(whole)


def is_ours(model: PublishedModel, source: AnalyzeSource) -> bool:
    """Whether a published model is the model of an analyze run."""
    if {source.label, source.results.model} & set(model.ours):
        return True
    made_of = source.made_of
    if not made_of or not model.made_of or "step" in made_of:  # one of an earlier step is not the trained one
        return False
    return all(_same(made_of.get(name), value) for name, value in model.made_of.items())


def newcombe(one: Rate, other: Rate) -> tuple[float, float]:
    """95 % interval of the difference of two independent rates, one minus other.

    Newcombe's hybrid of two Wilson intervals (Statistics in Medicine 17, 1998, method 10).
    """
    difference = one.rate - other.rate
    low = difference - sqrt((one.rate - one.low) ** 2 + (other.high - other.rate) ** 2)
    return low, difference + sqrt((one.high - one.rate) ** 2 + (other.rate - other.low) ** 2)


def _same(ours: Any, published: Any) -> bool:
    if isinstance(ours, str) and isinstance(published, str):
        return Path(ours).name == Path(published).name
    return bool(ours == published)


def _fits(rate: PublishedRate, judge: JudgeSource) -> bool:
    """Whether the judge run has a rate to compare with a published rate of its model."""
    same = rate.lens in judge.summary.lenses and rate.top_k == judge.summary.words
    return same and (rate.layer is None or judge.summary.rate(rate.lens, rate.layer).n > 0)


def _line(judge: JudgeSource, rate: PublishedRate) -> list[object]:
    head = [judge.summary.model, judge.summary.judge, rate.model, rate.lens, rate.layer, rate.top_k]
    if rate.layer is None or rate.n is None:
        if rate.layer is None:
            *interval, n, _ = judge.summary.mean(rate.lens)
        else:
            n, _, *interval = judge.summary.rate(rate.lens, rate.layer)
        difference = [end - rate.rate for end in interval]
        return [*head, n, *interval, rate.n, rate.rate, *difference, OURS, rate.source, rate.note]
    ours, theirs = judge.summary.rate(rate.lens, rate.layer), Rate.of(round(rate.rate * rate.n), rate.n)
    numbers = [ours.n, *ours[2:], rate.n, rate.rate, ours.rate - theirs.rate, *newcombe(ours, theirs)]
    return [*head, *numbers, BOTH, rate.source, rate.note]


def _common_means(judge: JudgeSource, entries: list[PublishedRate]) -> Iterator[list[object]]:
    """For each lens the mean over the layers with both a published rate and a rate of the run."""
    known = judge.summary.mean_layers
    for lens in dict.fromkeys(rate.lens for rate in entries):
        by_layer = {rate.layer: rate for rate in entries if rate.lens == lens and rate.layer in known}
        if not by_layer:
            continue
        first = next(iter(by_layer.values()))
        theirs = float(np.mean([rate.rate for rate in by_layer.values()]))
        layers = sorted(layer for layer in by_layer if layer is not None)
        *mean, patches, _ = judge.summary.answers.mean([lens], layers).as_share()
        head = [judge.summary.model, judge.summary.judge, first.model, lens, None, first.top_k]
        note = f"{_COMMON}: {', '.join(map(str, layers))}"
        yield [*head, patches, *mean, None, theirs, *(end - theirs for end in mean), OURS, first.source, note]


def _unmatched(sources: Sources, table: Published) -> Iterator[str]:
    """Sentences about the rates without a counterpart."""
    ours = [source for source in sources.analyses if source.judges]
    unknown = [source for source in ours if not any(is_ours(model, source) for model in table.models.values())]
    if unknown:
        names = ", ".join(
            f"{markdown_text(source.label)} (`{markdown_text(source.results.model)}`)" for source in unknown
        )
        yield (
            f"Of ours the table has nothing on: {names}; a file with `base: paper` and `models` can say what they "
            "are.\n"
        )
    about = [rate for rate in table.rates if any(is_ours(table.models[rate.model], source) for source in ours)]
    pairs = [
        (model, judge)
        for source, judge in sources.judged
        for model in table.models
        if is_ours(table.models[model], source)
    ]
    unused = [rate for rate in about if not any(rate.model == model and _fits(rate, judge) for model, judge in pairs)]
    if unused:
        yield (
            f"{len(unused)} of {len(about)} published rates of these models have no counterpart here: another layer, "
            "lens or number of judged words.\n"
        )
    missing = [name for name, model in table.models.items() if not any(is_ours(model, source) for source in ours)]
    if missing:
        yield f"Published, but none of ours: {', '.join(map(markdown_text, missing))}.\n"


def _findings(means: pd.DataFrame) -> Iterator[str]:
    """The first mean of each model beside the published mean; of many models the range of the differences."""
    first = means.drop_duplicates("model")
    if len(first) > FINDINGS:
        same = int(((first["difference_low"] <= 0) & (first["difference_high"] >= 0)).sum())
        yield (
            f"Of {len(first)} models with published rates, {same} do not differ significantly from them; the "
            f"differences are {points(first['difference'].min())} to {points(first['difference'].max())} points."
        )
        return
    for line in _shown(means).drop_duplicates("model").to_dict("records"):
        yield (
            f"{markdown_text(line['model'])}: {markdown_text(line['lens'])} is right for {line['ours']}, published for "
            f"{markdown_text(line['published model'])} are {line['published']} ({line['layers']})."
        )


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The table for the report, in percent."""
    lines = []
    for line in frame.to_dict("records"):
        rate = share_text(line["rate"], line["low"], line["high"])
        difference = difference_text(*(line[f"difference{end}"] for end in ("", "_low", "_high")))
        where = str(line["layer"])
        if pd.isna(line["layer"]):
            where = line["note"] if line["note"].startswith(_COMMON) else "published mean"
        published = f"{100 * line['published_rate']:.0f} %"
        if pd.notna(line["published_n"]):
            published += f" (n {line['published_n']})"
        names = [line["model"], line["published_model"], title_of(line["lens"]), where]
        lines.append([*names, rate, published, difference])
    heads = ["model", "published model", "lens", "layers", "ours", "published", "difference in points"]
    return pd.DataFrame(lines, columns=heads)


def _draw(frame: pd.DataFrame, figure: Figure) -> None:
    lenses = list(frame["lens"].unique())
    grid = panels(figure, frame[frame["layer"].notna()], "model")
    for axes, by_layer in grid:
        layers = sorted(by_layer["layer"].unique().astype(int).tolist())
        for lens in lenses:
            colour, marker = lens_style(lens, lenses)
            lines = by_layer[by_layer["lens"] == lens].drop_duplicates("layer").set_index("layer").reindex(layers)
            band = layers, lines["rate"], lines["low"], lines["high"]
            draw_band(axes, *band, colour, marker=marker, label=title_of(lens))
            (drawn,) = axes.plot(layers, lines["published_rate"], color=colour, marker=marker)
            drawn.set(**_PUBLISHED)
        (drawn,) = axes.plot([], [], color="#555555", marker="o", label="published")
        drawn.set(**_PUBLISHED)
        set_layers(figure, axes, layers, len(grid))
        axes.set_ylim(0, 1)
        percent_axis(axes)
    label_figure(figure, "visual layer", "patches named rightly")
