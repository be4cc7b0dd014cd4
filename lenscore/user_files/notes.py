"""Counts of what readers of the user's files skipped."""

from __future__ import annotations

import os
from collections import Counter

DETAILS_SHOWN = 5


class Notes:
    """Counts by reason ("files of other kinds, not taken") and, below it, by detail (a suffix, a file name)."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def add(self, reason: str, detail: str, count: int = 1) -> None:
        """Count some more; bytes of a file name that are not UTF-8 become escapes."""
        readable = os.fsencode(detail).decode("utf-8", "backslashreplace")
        self._counts.setdefault(reason, Counter())[readable] += count

    def include(self, other: Notes) -> None:
        """Count all that another one counts."""
        for reason, details in other._counts.items():
            self._counts.setdefault(reason, Counter()).update(details)

    def clear(self) -> None:
        """Reset, before the same files are read again."""
        self._counts.clear()

    def lines(self) -> list[str]:
        """One line for each reason, as in "files of other kinds, not taken: 4 (.md 3, .xcf 1)"."""
        return [f"{reason}: {details.total():,} ({_listed(details)})" for reason, details in self._counts.items()]


def _listed(details: Counter[str]) -> str:
    shown = [f"{detail} {count:,}" for detail, count in details.most_common(DETAILS_SHOWN)]
    more = len(details) - len(shown)
    return ", ".join(shown) + (f", and {more:,} more" if more else "")
