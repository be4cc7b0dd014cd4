"""Rates by lens and layer with their controls, as tables for files, terminals and pages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.table import Table

from lenscore.readings.lens_titles import title_of
from lenscore.statistics.intervals import Estimate, Mean, Rate, share_text
from lenscore.statistics.patch_answers import PATCH, Answers
from storage_layouts.counts import counted

SUMMARY_COLUMNS = ["model", "lens", "layer", "n", "yes", "rate", "low", "high", "control"]
CONTROL_COLUMNS = ["model", "lens", "layer", "control", "n", "yes", "rate", "low", "high"]
OTHER_PATCH = "other-patch"
RANDOM_WORDS = "random-words"

HOW_IT_IS_COUNTED = (
    "Intervals are of 95\u00a0%, in percent. The controls are judged on the same patches: words of the same lens and "
    "layer from a patch of another image, and random words (chance). Answers about one image, at several layers or on "
    "several patches, are not independent: all intervals are over images."
)
"""The explanation of all rates, for readers."""


@dataclass(frozen=True)
class Leader:
    """The lens with the highest mean rate of a judge run, and its difference from the best of the others.

    The difference is that of the means over layers on the same patches, with its 95 % interval over images. Reports and
    viewers say that a lens leads only if the interval is above 0.
    """

    lens: str
    other: str
    difference: Estimate

    @property
    def leads(self) -> bool:
        """Whether the difference is significant."""
        return self.difference.low > 0


@dataclass(frozen=True)
class Summary:
    """The rates of one judge run.

    ``words`` is the number of judged words of a lens. ``mean_layers`` are those over which means are taken (see
    `LensResults.mean_layers`). ``table`` has ``SUMMARY_COLUMNS``, one line per lens and layer in
    the order of the analyze run; ``control`` is the rate with the words of other patches, or NaN. ``controls`` has
    ``CONTROL_COLUMNS``. ``outcomes``, ``judged`` and ``images`` count the outcomes, patches and images of the verdicts
    on the lenses' own words. ``answers`` has the yes and no of all verdicts.
    """

    model: str
    judge: str
    words: int
    table: pd.DataFrame
    controls: pd.DataFrame
    outcomes: dict[str, int]
    judged: int
    images: int
    answers: Answers
    mean_layers: Sequence[int]

    @property
    def asked(self) -> tuple[str, int]:
        """The judge and the number of words; only rates with equal values are comparable."""
        return self.judge, self.words

    @property
    def lenses(self) -> list[str]:
        """Lens names in order."""
        return list(self.table["lens"].unique())

    @property
    def layers(self) -> Sequence[int]:
        """Visual layers in order."""
        return sorted(self.table["layer"].unique().tolist())

    def rate(self, lens: str, layer: int) -> Rate:
        """The rate of a lens at a layer."""
        return _rate(self.answers, [lens], [layer], "")

    def control(self, control: str, lens: str | None = None, layer: int | None = None) -> Rate:
        """The rate of a control; by default the mean over all lenses and `mean_layers`."""
        lenses = self.lenses if lens is None else [lens]
        return _rate(self.answers, lenses, self.mean_layers if layer is None else [layer], control)

    def mean(self, lens: str, control: str = "") -> Estimate:
        """The mean over `mean_layers` of the rates of a lens, or of one of its controls."""
        return self.answers.mean([lens], self.mean_layers, control).as_share()

    def lead(self, lens: str, layer: int | None = None) -> tuple[str, Estimate] | None:
        """The best other lens, at a layer or on the mean over `mean_layers`, and the difference from it.

        The same answers choose the other lens, which biases the difference downwards. None for a single lens.
        """
        layers = self.mean_layers if layer is None else [layer]
        others = {other: self.answers.mean([other], layers).value for other in self.lenses if other != lens}
        if not others:
            return None
        best = max(others, key=lambda other: (others[other] == others[other], others[other]))  # NaN comes last
        return best, self.answers.lead(lens, best, layers)

    @property
    def ranked(self) -> list[tuple[str, Estimate]]:
        """The judged lenses with their means over layers, the best first."""
        rates = [(lens, self.mean(lens)) for lens in self.lenses]
        return sorted(((lens, rate) for lens, rate in rates if rate.patches), key=lambda one: -one[1].value)

    @property
    def leader(self) -> Leader | None:
        """The best lens; None with fewer than two judged lenses."""
        ranked = self.ranked
        found = self.lead(ranked[0][0]) if len(ranked) > 1 else None
        return Leader(ranked[0][0], *found) if found else None


def lenses_of(summaries: Iterable[Summary]) -> list[str]:
    """All lenses of several judge runs, in order of appearance."""
    return list(dict.fromkeys(lens for summary in summaries for lens in summary.lenses))


def lens_ahead(summaries: Sequence[Summary]) -> tuple[list[tuple[str, Estimate]], int, int]:
    """Rank the lenses that several models share.

    Returns the lenses with their means over models and layers, the best first; the number of models in which the first
    is the best lens; and the number in which it leads (see `Leader`).
    """
    common = [lens for lens in summaries[0].lenses if all(lens in summary.lenses for summary in summaries)]
    means = [(lens, Mean.average([one.answers.mean([lens], one.mean_layers) for one in summaries])) for lens in common]
    judged = [(lens, mean.as_share()) for lens, mean in means if mean.patches]
    rates = sorted(judged, key=lambda one: -one[1].value)
    of_each = [(summary.ranked, summary.leader) for summary in summaries]
    best = sum(bool(ranked and rates) and ranked[0][0] == rates[0][0] for ranked, _ in of_each)
    leads = sum(leader is not None and leader.leads and leader.lens == rates[0][0] for _, leader in of_each if rates)
    return rates, best, leads


class _Layered(Protocol):
    @property
    def layers(self) -> Sequence[int]: ...

    @property
    def mean_layers(self) -> Sequence[int]: ...


def left_out_of_means(several: Iterable[_Layered]) -> str:
    """A sentence about the layers of results or summaries that enter no mean over layers; "" if all do."""
    layers = sorted({layer for one in several for layer in one.layers if layer not in one.mean_layers})
    if not layers:
        return ""
    return f"Means over layers leave out the output of the last block (layer {' or '.join(map(str, layers))})."


def summarise(
    verdicts: pd.DataFrame,
    model: str,
    judge: str,
    words: int,
    lenses: Sequence[str],
    images: Mapping[int, str],
    mean_layers: Collection[int] | None = None,
) -> Summary:
    """Count the verdicts of one judge run. Only yes and no enter a rate.

    Args:
        verdicts: the columns of ``storage_layouts.verdicts.Verdict``, one line per question.
        model: the label of the run.
        judge: its name.
        words: the number of judged words of a lens.
        lenses: in the order of the tables.
        images: the hash of each image id.
        mean_layers: those that enter means over layers; None for all.

    """
    order = {lens: place for place, lens in enumerate(lenses)}
    answers = Answers.of(verdicts, images)
    asked = sorted(set(zip(verdicts["lens"], verdicts["layer"], strict=True)), key=lambda key: (order[key[0]], key[1]))
    lines, controls = [], []
    for lens, layer in asked:
        own, other, random = (_rate(answers, [lens], [layer], control) for control in ("", OTHER_PATCH, RANDOM_WORDS))
        lines.append([model, lens, layer, *own, other.rate])
        controls += [[model, lens, layer, OTHER_PATCH, *other], [model, lens, layer, RANDOM_WORDS, *random]]
    judged = verdicts[verdicts["control"] == ""]
    layers = sorted({layer for _, layer in asked})
    return Summary(
        model=model,
        judge=judge,
        words=words,
        table=pd.DataFrame(lines, columns=SUMMARY_COLUMNS),
        controls=pd.DataFrame(controls, columns=CONTROL_COLUMNS),
        outcomes={str(name): int(count) for name, count in judged["outcome"].value_counts().sort_index().items()},
        judged=len(judged[PATCH].drop_duplicates()),
        images=int(judged["image_id"].nunique()),
        answers=answers,
        mean_layers=[layer for layer in layers if mean_layers is None or layer in mean_layers],
    )


def what_is_counted(summary: Summary) -> str:
    """The definition of the rates of a judge run, without a full stop; the judge's name is not escaped."""
    words = f"one of the {summary.words} best words" if summary.words > 1 else "the best word"
    return (
        f"Share of {summary.judged} sampled patches of {summary.images} images for which {words} is right "
        f"(judge {summary.judge})"
    )


def summary_table(summary: Summary) -> Table:
    """A table for terminals: lenses and controls by layer, with 95 % intervals."""
    table = Table(
        title=escape(f"{summary.model}: patches whose words name what is there ({summary.judge})"),
        caption=f"{counted(summary.judged, 'patch')} a cell, 95 % intervals; the two controls over all lenses",
    )
    for heading in ("layer", *headings(summary)):
        table.add_column(heading, justify="right")
    styles = [""] * len(summary.lenses) + ["dim", "dim"]
    for layer in summary.layers:
        shown = [
            _cell(rate, "bold" if best else style)
            for (rate, best), style in zip(cells(summary, layer), styles, strict=True)
        ]
        table.add_row(str(layer), *shown)
    return table


def summary_shown(summary: Summary) -> pd.DataFrame:
    """The same table with text cells, for Markdown and LaTeX."""
    lines = [[str(layer), *(share_text(*rate[2:]) for rate, _ in cells(summary, layer))] for layer in summary.layers]
    return pd.DataFrame(lines, columns=["Layer", *headings(summary)])


def headings(summary: Summary) -> list[str]:
    """The headings after the layer: the lenses, then the two controls."""
    return [*(title_of(lens) for lens in summary.lenses), "other patch", "random words"]


def cells(summary: Summary, layer: int) -> list[tuple[Rate, bool]]:
    """The rates of a layer under ``headings``, with a flag for the best lens; controls are pooled over lenses."""
    rates = [summary.rate(lens, layer) for lens in summary.lenses]
    best = max((rate.rate for rate in rates if rate.n), default=None)
    controls = [summary.control(control, layer=layer) for control in (OTHER_PATCH, RANDOM_WORDS)]
    return [(rate, rate.rate == best) for rate in rates] + [(rate, False) for rate in controls]


def _rate(answers: Answers, lenses: Sequence[str], layers: Sequence[int], control: str) -> Rate:
    """The mean rate, with its numbers of answers and yes."""
    columns = answers.columns(lenses, layers, control)
    mean = Mean.of(columns, answers.images)
    return Rate(mean.answers, int(np.nansum(columns)), *mean.as_share()[:3])


def _cell(rate: Rate, style: str) -> str:
    text = f"{rate.percent} [dim]{rate.interval}[/dim]" if rate.n else rate.percent
    return f"[{style}]{text}[/{style}]" if style else text
