"""The budget of a run: how much money which writer may spend, agreed upon without a server.

    budget/000001.json, 000002.json, ...

Each file is one entry, and is created by exactly one writer, who had read all entries before it. So every entry was
written in full knowledge of the others, and the sum of what all writers hold never passes the limit: not with any
number of workers, not if they are killed, and not if one that was taken for dead wakes up: it still has what it held.

An entry either sets the limit, or says that a writer holds so much from now on: what it has spent and what it may spend
yet. Amounts are nanodollars.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from storage_layouts.fields import COUNT, TEXT, check_fields, optional
from storage_layouts.files import json_bytes, publish_first, read_json

NANODOLLARS = 1_000_000_000
_LIMIT = {"limit": replace(optional(COUNT), optional=False)}  # null is no limit, and has to be said
_HOLD = {"writer": TEXT, "held": COUNT, "spent": COUNT}
REMEDY = "restore the file from a copy; without one, move the folder away and give --max-cost anew, from now on"


@dataclass(frozen=True)
class Hold:
    """What a writer holds in all, and how much of it was spent when it said so."""

    held: int
    spent: int


class Budget:
    """The entries in a folder, and the way to add one."""

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
        """Nanodollars known to be spent; may lag behind by what the writers have not said yet."""
        return sum(hold.spent for hold in self.holds.values())

    @property
    def left(self) -> int | None:
        """Nanodollars that nobody holds; None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.held)

    def refresh(self) -> None:
        """Read the entries that are new."""
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
        """Set the limit, or None for none. Nothing is written if it is set so already."""
        self._add(lambda: None if self.is_set and self.limit == limit else {"kind": "limit", "limit": limit})

    def hold(self, writer: str, held: int, spent: int, wanted: int | None = None) -> bool:
        """Say that a writer holds so much from now on, or if there is room the larger amount ``wanted``.

        False if it would be more than before and there is no room for it. Less than before is always granted.
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
        """Say what a writer has spent and has under way, and that it holds no more.

        If a service billed more than the worst case, the limit may be passed; then nothing is left.
        """
        entry = {"kind": "hold", "writer": writer, "held": held, "spent": spent}
        self._add(lambda: None if self.holds.get(writer) == Hold(held, spent) else entry)

    def _add(self, entry: Callable[[], dict[str, Any] | None]) -> None:
        """Write the entry that follows from all that is there; anew if somebody else was faster."""
        while True:
            self.refresh()
            content = entry()
            if content is None or publish_first(self._path(self._read + 1), json_bytes(content)):
                break
        self.refresh()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"


def dollars(amount: int) -> str:
    """Nanodollars for people."""
    return f"${amount / NANODOLLARS:,.4f}"
