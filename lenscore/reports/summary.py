"""Rates by lens and layer, each beside its controls, as tables for files, terminals and pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from rich.markup import escape
from rich.table import Table

from lenscore.reports.intervals import Rate

SUMMARY_COLUMNS = ["model", "lens", "layer", "n", "yes", "rate", "low", "high", "control"]
CONTROL_COLUMNS = ["model", "lens", "layer", "control", "n", "yes", "rate", "low", "high"]
OTHER_PATCH = "other-patch"
RANDOM_WORDS = "random-words"
TITLES = {"latent": "LatentLens", "logit": "LogitLens", "embedding": "EmbeddingLens"}


@dataclass(frozen=True)
class Summary:
    """The rates of one judge run.

    ``table`` has ``SUMMARY_COLUMNS``, one line per lens and layer in the order of the analyze run; ``control`` is
    the rate with the words of other patches (NaN without any). ``controls`` has ``CONTROL_COLUMNS``. ``outcomes``
    counts the verdicts on the lenses' own words by outcome, ``judged`` the patches they are of.
    """

    model: str
    judge: str
    table: pd.DataFrame
    controls: pd.DataFrame
    outcomes: dict[str, int]
    judged: int

    @property
    def lenses(self) -> list[str]:
        """Lens names in order."""
        return list(self.table["lens"].unique())

    @property
    def layers(self) -> list[int]:
        """Visual layers in order."""
        return sorted(self.table["layer"].unique().tolist())

    def rate(self, lens: str, layer: int) -> Rate:
        """The rate of a lens at a layer."""
        return _rate_in(self.table[(self.table["lens"] == lens) & (self.table["layer"] == layer)])

    def control(self, control: str, lens: str | None = None, layer: int | None = None) -> Rate:
        """The rate of a control, pooled over all lenses or layers if none is named."""
        chosen = self.controls[self.controls["control"] == control]
        if lens is not None:
            chosen = chosen[chosen["lens"] == lens]
        if layer is not None:
            chosen = chosen[chosen["layer"] == layer]
        return _rate_in(chosen)


def summarise(verdicts: pd.DataFrame, model: str, judge: str, lenses: Sequence[str]) -> Summary:
    """Count the verdicts of one judge run. Only yes and no enter a rate; the other outcomes are counted apart.

    ``verdicts`` has the columns of ``storage_layouts.verdicts.Verdict``; ``lenses`` gives the order.
    """
    order = {lens: place for place, lens in enumerate(lenses)}
    answered = verdicts[verdicts["outcome"].isin(["yes", "no"])]
    counted = answered.assign(yes=answered["outcome"] == "yes")
    groups = counted.groupby(["lens", "layer", "control"])["yes"].agg(["sum", "size"])
    found = {key: Rate.of(int(row["sum"]), int(row["size"])) for key, row in groups.to_dict("index").items()}
    asked = sorted(set(zip(verdicts["lens"], verdicts["layer"], strict=True)), key=lambda key: (order[key[0]], key[1]))
    nothing = Rate.of(0, 0)
    lines, controls = [], []
    for lens, layer in asked:
        rate = found.get((lens, layer, ""), nothing)
        other = found.get((lens, layer, OTHER_PATCH), nothing)
        lines.append([model, lens, layer, rate.n, rate.yes, rate.rate, rate.low, rate.high, other.rate])
        for control in (OTHER_PATCH, RANDOM_WORDS):
            rate = found.get((lens, layer, control), nothing)
            controls.append([model, lens, layer, control, rate.n, rate.yes, rate.rate, rate.low, rate.high])
    own = verdicts[verdicts["control"] == ""]
    return Summary(
        model=model,
        judge=judge,
        table=pd.DataFrame(lines, columns=SUMMARY_COLUMNS),
        controls=pd.DataFrame(controls, columns=CONTROL_COLUMNS),
        outcomes={str(name): int(count) for name, count in own["outcome"].value_counts().sort_index().items()},
        judged=len(own[["image_id", "view", "row", "col"]].drop_duplicates()),
    )


def summary_table(summary: Summary) -> Table:
    """For a terminal: the lenses by layer, with 95 % intervals, against other patches' words and chance."""
    table = Table(
        title=escape(f"{summary.model}: patches whose words name what is there ({summary.judge})"),
        caption=f"{summary.judged} patches a cell, 95 % intervals; the two controls over all lenses",
    )
    table.add_column("layer", justify="right")
    for heading in headings(summary):
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
    """The same table with every cell a text, for Markdown and LaTeX."""
    lines = [[str(layer), *(_bracketed(rate) for rate, _ in cells(summary, layer))] for layer in summary.layers]
    return pd.DataFrame(lines, columns=["Layer", *headings(summary)])


def headings(summary: Summary) -> list[str]:
    """The headings behind the layer: lenses, then the two controls."""
    return [*(TITLES.get(lens, lens) for lens in summary.lenses), "other patch", "random words"]


def cells(summary: Summary, layer: int) -> list[tuple[Rate, bool]]:
    """The line of a layer under ``headings``, the controls pooled over the lenses; the flag marks the best lens."""
    rates = [summary.rate(lens, layer) for lens in summary.lenses]
    best = max((rate.rate for rate in rates if rate.n), default=None)
    controls = [summary.control(control, layer=layer) for control in (OTHER_PATCH, RANDOM_WORDS)]
    return [(rate, rate.rate == best) for rate in rates] + [(rate, False) for rate in controls]


def _rate_in(lines: pd.DataFrame) -> Rate:
    return Rate.of(int(lines["yes"].sum()), int(lines["n"].sum()))


def _bracketed(rate: Rate) -> str:
    return f"{rate.percent} ({rate.interval})" if rate.n else rate.percent


def _cell(rate: Rate, style: str) -> str:
    text = f"{rate.percent} [dim]{rate.interval}[/dim]" if rate.n else rate.percent
    return f"[{style}]{text}[/{style}]" if style else text
