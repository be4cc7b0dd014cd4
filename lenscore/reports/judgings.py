"""The judge runs: numbers of patches and images, outcomes, and costs."""

from __future__ import annotations

from dataclasses import astuple

import pandas as pd

from lenscore.reports.sections import Section, Table
from lenscore.statistics.sources import Sources

JUDGING_COLUMNS = [
    *("model", "judge", "seed", "top_k", "images", "patches", "answers", "yes", "no", "refused", "unparsable"),
    *("failed", "tied", "questions", "input_tokens", "output_tokens", "dollars", "spent", "unknown_payments"),
]
_FEW = 3
"""With more judge runs, those with equal judge, seed and words share a line."""


def judging_section(sources: Sources) -> Section | None:
    """The judge runs; None without any."""
    lines, shown = [], []
    for _, judge in sources.judged:
        summary, costs, outcomes = judge.summary, judge.costs, judge.summary.outcomes
        counts = [outcomes.get(name, 0) for name in ("yes", "no", "refused", "unparsable", "failed", "tied")]
        name = [summary.model, summary.judge, judge.run.config["seed"], summary.words, summary.images, summary.judged]
        lines.append([*name, sum(counts), *counts, *astuple(costs)])
        without = f"{sum(counts[2:])} of {sum(counts)}"
        shown.append([*map(str, name), without, f"{costs.questions:,}", _price(costs.questions, costs.dollars)])
    if not lines:
        return None
    frame = pd.DataFrame(lines, columns=JUDGING_COLUMNS)
    if len(shown) > _FEW:
        shown = _condensed(frame)
    headings = ["Model", "Judge", "Seed", "Words", "Images", "Patches", "No yes or no", "Paid questions", "Cost"]
    table = Table(
        "judging",
        "Judge runs: what was judged, answers without a yes or no, and the price of the answers.",
        frame,
        pd.DataFrame(shown, columns=headings),
    )
    paid = frame[frame["questions"] > 0]
    text = "No judge was paid.\n"
    if len(paid):
        dollars, spent = paid["dollars"].sum(), paid["spent"].sum()
        rest = "" if spent >= dollars - 0.005 else "; the other answers were in a ledger already"
        text = (
            f"The answers of the judges cost ${dollars:,.2f} ({paid['input_tokens'].sum():,} tokens in, "
            f"{paid['output_tokens'].sum():,} out). These runs spent ${spent:,.2f} themselves, replies that never came "
            f"included{rest}.\n"
        )
    return Section("Judges and costs", text, (table,), brief=(table,))


def _condensed(frame: pd.DataFrame) -> list[list[str]]:
    shown = []
    for (judge, seed, words), runs in frame.groupby(["judge", "seed", "top_k"], sort=False):
        without = int(runs[["refused", "unparsable", "failed", "tied"]].to_numpy().sum())
        questions, dollars = int(runs["questions"].sum()), float(runs["dollars"].sum())
        images = str(runs["images"].min()) if runs["images"].nunique() == 1 else f"{runs['images'].sum():,}"
        each = " each" if runs["images"].nunique() == 1 else ""
        counts = [images + each, f"{runs['patches'].sum():,}", f"{without:,} of {runs['answers'].sum():,}"]
        names = [f"{len(runs)} runs", str(judge), str(seed), str(words)]
        shown.append([*names, *counts, f"{questions:,}", _price(questions, dollars)])
    return shown


def _price(questions: int, dollars: float) -> str:
    return f"${dollars:,.2f}" if questions else "–"
