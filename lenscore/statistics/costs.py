"""The cost of the answers of a judge run, from its verdicts and its budget."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from storage_layouts.budget import NANODOLLARS, Budget
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import UNKNOWN_PAYMENTS


@dataclass(frozen=True)
class Costs:
    """The costs of one judge run.

    Attributes:
        questions: distinct questions that were answered over the network or from a ledger.
        input_tokens, output_tokens: of the answers.
        dollars: the price of the answers, whichever run paid it (runs may share a ledger).
        spent: dollars that the workers of this run spent, including requests without a reply; None without a paid
            judge.
        unknown: number of questions whose payment is unknown.

    """

    questions: int
    input_tokens: int
    output_tokens: int
    dollars: float
    spent: float | None
    unknown: int


def costs_of(run: RunFolder, verdicts: pd.DataFrame) -> Costs:
    """Add up the costs of a run; ``verdicts`` includes repeats and controls."""
    asked = verdicts[verdicts["key"] != ""].drop_duplicates(["judge", "key"])
    answered = [usage for usage in asked["usage"] if "error" not in usage]
    budget = Budget(run.path / "budget")
    budget.refresh()
    unknown = {key for receipt in run.receipts() for key in receipt.facts.get(UNKNOWN_PAYMENTS, ())}
    tokens = [sum(int(usage.get(name, 0)) for usage in answered) for name in ("input_tokens", "output_tokens")]
    return Costs(
        len(answered),
        tokens[0],
        tokens[1],
        sum(float(usage.get("dollars", 0)) for usage in answered),
        budget.spent / NANODOLLARS if budget.holds else None,
        len(unknown),
    )
