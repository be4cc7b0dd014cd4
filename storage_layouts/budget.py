"""The budget of a run: how much money each writer may spend, decided without a server.

    budget/000001.json, 000002.json, ...

Each file is one entry, created by exactly one writer that had read all entries before it. So the sum of the amounts
that all writers hold never exceeds the limit: not with any number of workers, not if they are killed, and not if a
worker that seemed dead continues, because it keeps the amount that it held.

An entry sets either the limit or the amount that a writer holds from now on: its spent money plus what it may still
spend. Amounts are in nanodollars.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from storage_layouts.fields import COUNT, TEXT, check_fields, optional
from storage_layouts.files import json_bytes, publish_first, read_json

NANODOLLARS = 1_000_000_000
_LIMIT = {"limit": replace(optional(COUNT), optional=False)}  # required; null is no limit
_HOLD = {"writer": TEXT, "held": COUNT, "spent": COUNT}
REMEDY = "restore the file from a copy; without one, move the folder away and set --max-cost for the costs from now on"


@dataclass(frozen=True)
class Hold:
    """The amount that a writer holds, and how much of it was spent when the entry was written."""

    held: int
    spent: int


class Budget:
    """The entries in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.limit: int | None = None
        """Nanodollars; None before any was set, and for no limit."""
        self.is_set = False
        self.holds: dict[str, Hold] = {}
        self._read = 0

    @property
    def held(self) -> int:
        """Nanodollars that all writers hold together."""
        return sum(hold.held for hold in self.holds.values())

    @property
    def spent(self) -> int:
        """Nanodollars spent according to the entries; writers may have spent more since."""
        return sum(hold.spent for hold in self.holds.values())

    @property
    def left(self) -> int | None:
        """Nanodollars that no writer holds; None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.held)

    def refresh(self) -> None:
        """Read the new entries."""
        while (path := self._path(self._read + 1)).exists():
            entry = read_json(path, REMEDY)
            check_fields(path, entry, {"kind": TEXT}, REMEDY)
            check_fields(path, entry, _LIMIT if entry["kind"] == "limit" else _HOLD, REMEDY)
            if entry["kind"] == "limit":
                self.limit, self.is_set = entry["limit"], True
            else:
                self.holds[entry["writer"]] = Hold(entry["held"], entry["spent"])
            self._read += 1

    def set_limit(self, limit: int | None) -> None:
        """Set the limit (None: no limit). Nothing is written if it is already the limit."""
        self._add(lambda: None if self.is_set and self.limit == limit else {"kind": "limit", "limit": limit})

    def hold(self, writer: str, held: int, spent: int, wanted: int | None = None) -> bool:
        """Set the amount that a writer holds to ``held``, or to the larger ``wanted`` if the limit allows it.

        Returns False if the amount is more than before and the limit does not allow it.
        """
        granted = False

        def entry() -> dict[str, Any] | None:
            nonlocal granted
            before = self.holds.get(writer, Hold(0, 0))
            room = None if self.limit is None else self.limit - self.held + before.held
            amount = held if wanted is None or (room is not None and wanted > room) else wanted
            granted = room is None or amount <= room or amount <= before.held
            if not granted or before == Hold(amount, spent):
                return None
            return {"kind": "hold", "writer": writer, "held": amount, "spent": spent}

        self._add(entry)
        return granted

    def settle(self, writer: str, held: int, spent: int) -> None:
        """Set the amount that a writer holds to ``held``, its spent money plus its open requests, also above the limit.

        The limit is exceeded if a service billed more than the worst case; then nothing is left.
        """
        entry = {"kind": "hold", "writer": writer, "held": held, "spent": spent}
        self._add(lambda: None if self.holds.get(writer) == Hold(held, spent) else entry)

    def _add(self, entry: Callable[[], dict[str, Any] | None]) -> None:
        """Write the entry that follows from all existing ones; repeat if another writer was faster."""
        while True:
            self.refresh()
            content = entry()
            if content is None or publish_first(self._path(self._read + 1), json_bytes(content)):
                break
        self.refresh()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"


def dollars(amount: int) -> str:
    """Nanodollars as text in dollars."""
    return f"${amount / NANODOLLARS:,.4f}"
