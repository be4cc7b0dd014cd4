"""What the answers of a judge run cost, as its verdicts and its budget say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from storage_layouts.budget import NANODOLLARS, Budget
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import UNKNOWN_PAYMENTS


@dataclass(frozen=True)
class Costs:
    """Of one judge run.

    Attributes:
        questions: different ones that judges answered over the network or from a ledger; equal ones are asked once.
        input_tokens, output_tokens: of their answers.
        dollars: the price of their answers, whichever run paid it (runs may share a ledger).
        spent: dollars that the workers of this run spent themselves, replies that never came included; None where no
            money was at stake.
        unknown: questions whose payment is unknown.

    """

    questions: int
    input_tokens: int
    output_tokens: int
    dollars: float
    spent: float | None
    unknown: int


def costs_of(run: RunFolder, verdicts: pd.DataFrame) -> Costs:
    """Add up a run; ``verdicts`` are all of its verdicts, repeats and controls too."""
    asked = verdicts[verdicts["key"] != ""].drop_duplicates(["judge", "key"])
    answered = [usage for usage in asked["usage"] if "error" not in usage]
    budget = Budget(run.path / "budget")
    budget.refresh()
    unknown = {key for receipt in run.receipts() for key in receipt.facts.get(UNKNOWN_PAYMENTS, ())}
    return Costs(
        len(answered),
        _total(answered, "input_tokens"),
        _total(answered, "output_tokens"),
        sum(float(usage.get("dollars", 0)) for usage in answered),
        budget.spent / NANODOLLARS if budget.holds else None,
        len(unknown),
    )


def _total(usages: list[dict[str, Any]], name: str) -> int:
    return sum(int(usage.get(name, 0)) for usage in usages)
