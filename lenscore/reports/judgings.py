"""Who judged what: how many patches of how many images, how it came out, and what it cost."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lenscore.reports.sections import Section, Table
from lenscore.statistics.sources import Sources

JUDGING_COLUMNS = [
    *("model", "judge", "seed", "top_k", "images", "patches", "answers", "yes", "no", "refused", "unparsable"),
    *("failed", "tied", "questions", "input_tokens", "output_tokens", "dollars", "spent", "unknown_payments"),
]
_FEW = 3
"""Of more judge runs, those that ask the same stand in one line."""


def judging_section(sources: Sources) -> Section | None:
    """The judge runs; None without any."""
    lines, shown = [], []
    for source in sources.analyses:
        for judge in source.judges:
            summary, costs, outcomes = judge.summary, judge.costs, judge.summary.outcomes
            counts = [outcomes.get(name, 0) for name in ("yes", "no", "refused", "unparsable", "failed", "tied")]
            top_k, seed = judge.top_k or source.results.top_k, judge.run.config["seed"]
            name = [summary.model, summary.judge, seed, top_k, summary.images, summary.judged, sum(counts)]
            money = [costs.questions, costs.input_tokens, costs.output_tokens, costs.dollars, costs.spent]
            lines.append([*name, *counts, *money, costs.unknown])
            without = f"{sum(counts[2:])} of {sum(counts)}"
            price = f"${costs.dollars:,.2f}" if costs.questions else "–"
            shown.append([*map(str, name[:6]), without, f"{costs.questions:,}", price])
    if not lines:
        return None
    if len(shown) > _FEW:
        shown = _condensed(lines)
    headings = ["Model", "Judge", "Seed", "Words", "Images", "Patches", "No yes or no", "Paid questions", "Cost"]
    table = Table(
        "judging",
        "Judge runs: what was judged, answers without a yes or no, and the price of the answers.",
        pd.DataFrame(lines, columns=JUDGING_COLUMNS),
        pd.DataFrame(shown, columns=headings),
    )
    paid = [judge.costs for source in sources.analyses for judge in source.judges if judge.costs.questions]
    text = "No judge was paid.\n"
    if paid:
        spent = sum(costs.spent or 0 for costs in paid)
        tokens = [sum(getattr(costs, name) for costs in paid) for name in ("input_tokens", "output_tokens")]
        dollars = sum(costs.dollars for costs in paid)
        rest = "" if spent >= dollars - 0.005 else "; the other answers were in a ledger already"
        text = (
            f"The answers of the judges cost ${dollars:,.2f} ({tokens[0]:,} tokens in, {tokens[1]:,} out). These runs "
            f"spent ${spent:,.2f} themselves, replies that never came included{rest}.\n"
        )
    return Section("Judges and costs", text, (table,), brief=(table,))


def _condensed(lines: list[list[Any]]) -> list[list[str]]:
    frame = pd.DataFrame(lines, columns=JUDGING_COLUMNS)
    shown = []
    for (judge, seed, words), runs in frame.groupby(["judge", "seed", "top_k"], sort=False):
        without = int(runs[["refused", "unparsable", "failed", "tied"]].to_numpy().sum())
        questions, dollars = int(runs["questions"].sum()), float(runs["dollars"].sum())
        images = str(runs["images"].min()) if runs["images"].nunique() == 1 else f"{runs['images'].sum():,}"
        each = " each" if runs["images"].nunique() == 1 else ""
        counts = [images + each, f"{runs['patches'].sum():,}", f"{without:,} of {runs['answers'].sum():,}"]
        price = f"${dollars:,.2f}" if questions else "–"
        shown.append([f"{len(runs)} runs", str(judge), str(seed), str(words), *counts, f"{questions:,}", price])
    return shown
