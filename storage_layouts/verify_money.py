"""Check the files of a judge run that no receipt names, because they change: ledger, budget and terms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from storage_layouts.budget import REMEDY, Budget
from storage_layouts.errors import CorruptError, MachineError
from storage_layouts.fields import TEXT, check_fields, optional
from storage_layouts.files import read_json
from storage_layouts.ledger import Ledger
from storage_layouts.ledger_lines import SUFFIX, Reader
from storage_layouts.machine_errors import reading

TERMS = "terms.json"
TERMS_REMEDY = "repeat the command, which writes it anew"

Checked = tuple[str, CorruptError | MachineError | None]
"""A file that was looked at, and what is wrong with it, or why it could not be read."""


def is_ledger(folder: Path) -> bool:
    """Whether a folder holds the files of a ledger, which several runs may share."""
    return any(re.match(r"[0-9a-f]{16}-.+-\d+-", file.name) for file in folder.glob(f"*{SUFFIX}"))


def check_ledger(folder: Path) -> Iterator[Checked]:
    """Read every line of a ledger; a file is named by its path."""
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        problem: CorruptError | MachineError | None = None
        try:
            with reading(file):
                for _ in Reader(file).read():
                    pass
        except (CorruptError, MachineError) as error:
            problem = error
        yield str(file), problem


def check_money(run: Path) -> Iterator[Checked]:
    """Check terms, budget and ledger of a judge run; nothing if it has none."""
    ledger = run / "ledger"
    if (run / TERMS).exists():
        try:
            terms = read_json(run / TERMS, TERMS_REMEDY)
            check_fields(run / TERMS, terms, {"ledger": optional(TEXT)}, TERMS_REMEDY)
            ledger = Path(terms.get("ledger") or ledger)
            yield str(run / TERMS), None
        except (CorruptError, MachineError) as error:
            yield str(run / TERMS), error
    damaged = False  # or unread
    for name, problem in check_ledger(ledger):
        damaged = damaged or problem is not None
        yield name, problem
    names = sorted(path.name for path in (run / "budget").glob("[!.]*.json"))
    for number, name in enumerate(names, 1):
        file = run / "budget" / f"{number:06d}.json"
        if name != file.name:
            yield str(file), CorruptError(file, "no such file", "an entry before the others", REMEDY)
            return
        try:
            read_json(file, REMEDY)
            yield str(file), None
        except (CorruptError, MachineError) as error:
            damaged = True
            yield str(file), error
    if not damaged:
        yield from _lost_lines(run, ledger)


def _lost_lines(run: Path, ledger: Path) -> Iterator[Checked]:
    """The files of the ledger that say less than the budget knows of them."""
    budget, known = Budget(run / "budget"), Ledger(ledger, "")
    budget.refresh()
    known.refresh()
    for writer, hold in budget.holds.items():
        file, spent = ledger / f"{writer}{SUFFIX}", known.committed(writer)[0]
        if file.exists() and spent < hold.spent:
            found, expected = f"{spent:,} nanodollars spent", f"{hold.spent:,}, as {run / 'budget'} says"
            yield str(file), CorruptError(file, found, expected, "restore the file from a copy")
