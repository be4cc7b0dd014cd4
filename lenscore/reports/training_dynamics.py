"""Rates over the training: models that `lens train --save-at` kept of one training, analysed and judged alike."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import COLUMN_INCHES, PAGE_INCHES, lens_style, title_text
from lenscore.reports.parts.layer_plots import label_figure, rate_axis, small_multiples
from lenscore.reports.parts.mean_rates import judges_of, summary_by
from lenscore.reports.parts.rate_figures import panel_columns, panel_inches
from lenscore.reports.sections import Plot, Section, Table
from lenscore.statistics.sources import AnalyzeSource, Sources
from lenscore.statistics.summary import OTHER_PATCH, left_out_of_means
from storage_layouts.files import canonical_json

DYNAMICS_COLUMNS = [
    *("training", "judge", "words", "step", "lens", "rate", "low", "high", "other_patch", "patches", "images"),
]


def dynamics_section(sources: Sources) -> Section | None:
    """Mean rates over the layers by step; None unless at least two steps of a training have the same judge."""
    lines = [line for steps in _trainings(sources).values() for line in _lines(sources, steps)]
    if not lines:
        return None
    frame = pd.DataFrame(lines, columns=DYNAMICS_COLUMNS)
    panels = frame.groupby(["training", "judge", "words"], sort=False).ngroups
    columns = panel_columns(panels)
    plot = Plot(
        "training-dynamics",
        "Mean rates over the layers by the step of the training, with 95 % intervals; dotted: words of other patches.",
        (PAGE_INCHES if columns > 2 else COLUMN_INCHES, 0.75 + 1.6 * -(-panels // columns)),
        partial(_draw, frame),
        frame,
    )
    caption = "Share of patches that are named rightly, mean over the layers, by the step that the model was saved at."
    text = "Models of one training, as `lens train --save-at` keeps them; the last step is the trained model.\n"
    if left_out := left_out_of_means(judge.summary for _, judge in sources.judged):
        text += f"\n{left_out}\n"
    table = Table("training-dynamics", caption, frame)
    return Section("Rates over the training", text, (table,), (plot,), (table,))


def _trainings(sources: Sources) -> dict[bytes, dict[int, AnalyzeSource]]:
    """By everything but the step that models are made of, and then by step; the first run of each step."""
    found: dict[bytes, dict[int, AnalyzeSource]] = {}
    for source in sources.analyses:
        made_of = dict(source.made_of or {})
        step = made_of.pop("step", made_of.get("steps"))
        if isinstance(step, int):
            found.setdefault(canonical_json(made_of), {}).setdefault(step, source)
    return found


def _lines(sources: Sources, steps: dict[int, AnalyzeSource]) -> Iterator[list[object]]:
    for asked in judges_of(sources):
        judged = {step: found for step in sorted(steps) if (found := summary_by(steps[step], asked))}
        if len(judged) < 2:
            continue
        training = steps[max(judged)].label
        for step, summary in judged.items():
            for lens in summary.lenses:
                rate, other = summary.mean(lens), summary.mean(lens, OTHER_PATCH)
                numbers = (rate.value, rate.low, rate.high, other.value, rate.patches, rate.images)
                yield [training, *asked, step, lens, *numbers]


def _draw(frame: pd.DataFrame, figure: Figure) -> None:
    groups = list(frame.groupby(["training", "judge", "words"], sort=False))
    columns = panel_columns(len(groups))
    lenses = list(frame["lens"].unique())
    for axes, ((training, *_), lines) in zip(small_multiples(figure, len(groups), columns), groups, strict=True):
        for lens in lenses:
            colour, marker = lens_style(lens, lenses)
            own = lines[lines["lens"] == lens]
            axes.plot(own["step"], own["rate"], color=colour, marker=marker, markersize=3, label=title_of(lens))
            axes.fill_between(own["step"], own["low"], own["high"], color=colour, alpha=0.2, linewidth=0)
            axes.plot(own["step"], own["other_patch"], color=colour, linewidth=0.8, linestyle=":")
        axes.set_xscale("symlog", linthresh=max(1, lines["step"][lines["step"] > 0].min()))
        axes.set_title(title_text(str(training), panel_inches(figure, columns)), fontsize=7, pad=3)
        axes.set_ylim(bottom=0)
        rate_axis(axes)
    label_figure(figure, "step of the training", "patches named rightly")
