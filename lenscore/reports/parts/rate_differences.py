"""Differences between the rates of lenses on the same patches, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from lenscore.readings.lens_titles import LATENT, title_of
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import Table
from lenscore.statistics.summary import Summary

DIFFERENCE_COLUMNS = ["model", "lens", "other", "layer", "lead", "low", "high", "patches", "images"]
MEAN = "mean"
"""The value of the column ``layer`` for the mean over `Summary.mean_layers`."""


def difference_tables(summaries: Sequence[Summary]) -> tuple[Table, Table]:
    """All pairs of lenses (``leads``), and one lens against the best of the others (``lead``)."""
    every = [
        [summary.model, lens, other, layer, *summary.answers.lead(lens, other, layers)]
        for summary in summaries
        for lens, other in combinations(summary.lenses, 2)
        for layer, layers in _spans(summary)
    ]
    best, shown = [], []
    for summary in summaries:
        lens = reference_lens(summary)
        for layer, layers in _spans(summary):
            found = summary.lead(lens, layers[0] if layer != MEAN else None)
            if found is None:
                continue
            other, lead = found
            best.append([summary.model, lens, other, layer, *lead])
            if len(summaries) == 1 or layer == MEAN:
                name = str(layer) if len(summaries) == 1 else summary.model
                rival = f"{title_of(lens)} – {title_of(other)}"
                shown.append([name, rival, lead.shown_difference, str(lead.patches)])
    first = "Layer" if len(summaries) == 1 else "Model (mean over layers)"
    return (
        Table(
            "leads",
            "How much higher the rate of a lens is than another's on the same patches, with 95 % intervals.",
            pd.DataFrame(every, columns=DIFFERENCE_COLUMNS),
        ),
        Table(
            "lead",
            "Lead of a lens over the best of the others on the same patches, in points of percent with 95 % intervals.",
            pd.DataFrame(best, columns=DIFFERENCE_COLUMNS),
            pd.DataFrame(shown, columns=[first, "Lens – best other", "Lead", "Patches"]),
        ),
    )


def reference_lens(summary: Summary) -> str:
    """The lens whose differences are shown: LatentLens, or else the first lens of the run."""
    return LATENT if LATENT in summary.lenses else summary.lenses[0]


def lead_sentence(summary: Summary) -> str:
    """The leading lens, its lead on the mean over layers, and the number of layers with a lead; "" for one lens."""
    leader = summary.leader
    if leader is None:
        return ""
    model, lens, other = map(markdown_text, (summary.model, title_of(leader.lens), title_of(leader.other)))
    by = f"by {leader.difference.shown_difference} points on the same patches"
    if not leader.leads:
        return f"{model}: no lens leads clearly; {lens} is ahead of {other} {by}, which is not significant."
    found = {layer: lead[1] for layer in summary.mean_layers if (lead := summary.lead(leader.lens, layer))}
    ahead = sum(difference.low > 0 for difference in found.values())
    behind = [str(layer) for layer, difference in found.items() if difference.high < 0]
    where = f"; the difference is significant at {ahead} of {len(found)} layers" if len(found) > 1 else ""
    turned = f", and in favour of another lens at layer {', '.join(behind)}" if behind else ""
    return f"{model}: {lens} leads {other}, the best of the others, {by}{where}{turned}."


def _spans(summary: Summary) -> list[tuple[int | str, Sequence[int]]]:
    """Each layer, and those of the mean together if there are several."""
    single: list[tuple[int | str, Sequence[int]]] = [(layer, [layer]) for layer in summary.layers]
    return single + ([(MEAN, summary.mean_layers)] if len(summary.mean_layers) > 1 else [])
