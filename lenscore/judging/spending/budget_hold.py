"""One worker's share of the budget: a request's worst case is reserved before it is sent."""

from __future__ import annotations

from collections.abc import Sequence

from storage_layouts.budget import Budget, dollars
from storage_layouts.ledger import Call, Ledger

CALLS_AHEAD = 16
"""Money is taken from the budget for so many calls at once. What a killed worker held beyond its calls stays reserved
until its machine reports that it has ended."""


class BudgetHold:
    """Records requests in a ledger as far as the run's budget allows."""

    def __init__(self, budget: Budget, ledger: Ledger) -> None:
        self._budget = budget
        self._ledger = ledger

    def send(self, requests: Sequence[tuple[str, int]], until: float, batch: str = "") -> list[Call] | None:
        """Reserve money for requests and record them as sent; None if the budget is too small.

        Args:
            requests: keys, each with the nanodollars that it costs at most.
            until: Unix time after which the requests are over.
            batch: name of the batch that holds them, or "".

        """
        writer, asked = self._ledger.writer, sum(worst for _, worst in requests)
        spent, reserved = self._ledger.committed(writer)
        needed = spent + reserved + asked
        hold = self._budget.holds.get(writer)
        if hold is None or needed > hold.held:
            ahead = needed + (0 if batch else (CALLS_AHEAD - 1) * asked)
            if not self._budget.hold(writer, needed, spent, wanted=ahead):
                return None
        return self._ledger.sent(requests, until, batch)

    def available(self) -> int | None:
        """Nanodollars that this worker could reserve now; None without a limit."""
        self._budget.refresh()
        if self._budget.left is None:
            return None
        hold = self._budget.holds.get(self._ledger.writer)
        return self._budget.left + (hold.held - sum(self._ledger.committed(self._ledger.writer)) if hold else 0)

    def release(self) -> None:
        """Return to the budget what this worker, and workers that have ended, neither spent nor reserved."""
        self._ledger.refresh()
        self._budget.refresh()
        writers = [writer for writer in self._budget.holds if self._ledger.is_gone(writer)]
        if self._ledger.writer in self._budget.holds:
            writers.append(self._ledger.writer)
        for writer in writers:
            spent, reserved = self._ledger.committed(writer)
            self._budget.settle(writer, spent + reserved, spent)

    def refusal(self, worst: int) -> str:
        """One line that says why no more can be sent, with the amounts in the ledger."""
        self.release()
        limit, spent = self._budget.limit or 0, sum(self._ledger.committed(one)[0] for one in self._budget.holds)
        held = max(0, self._budget.held - spent)
        return (
            f"--max-cost: stopped at the limit of {dollars(limit)}: {dollars(spent)} are spent, "
            f"{dollars(held)} are reserved or held by workers, and the next call may cost up to {dollars(worst)}; "
            f"nothing is lost, repeat the command with a higher --max-cost to go on"
        )
