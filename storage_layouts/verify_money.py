"""Check the files of a judge run that change and are therefore in no receipt: ledger, budget and terms."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from storage_layouts.budget import REMEDY, Budget
from storage_layouts.errors import CorruptError, MachineError
from storage_layouts.fields import TEXT, check_fields, optional
from storage_layouts.files import read_json
from storage_layouts.ledger import Ledger
from storage_layouts.ledger_lines import SUFFIX, Reader
from storage_layouts.machine_errors import reading

TERMS = "terms.json"
TERMS_REMEDY = "repeat the command, which writes it again"

Checked = tuple[str, CorruptError | MachineError | None]
"""A file, and its error if it is damaged or could not be read."""


def is_ledger(folder: Path) -> bool:
    """Whether a folder holds the files of a ledger, which several runs may share."""
    return any(re.match(r"[0-9a-f]{16}-.+-\d+-", file.name) for file in folder.glob(f"*{SUFFIX}"))


def check_ledger(folder: Path) -> Iterator[Checked]:
    """Read every line of a ledger; a file is named by its path."""
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        yield _checked(file, lambda file: deque(Reader(file).read(), maxlen=0))


def _checked(file: Path, check: Callable[[Path], object]) -> Checked:
    try:
        with reading(file):
            check(file)
    except (CorruptError, MachineError) as error:
        return str(file), error
    return str(file), None


def check_money(run: Path) -> Iterator[Checked]:
    """Check terms, budget and ledger of a judge run, if it has them."""
    ledger = run / "ledger"

    def read_terms(file: Path) -> None:
        nonlocal ledger
        terms = read_json(file, TERMS_REMEDY)
        check_fields(file, terms, {"ledger": optional(TEXT)}, TERMS_REMEDY)
        ledger = Path(terms.get("ledger") or ledger)

    if (run / TERMS).exists():
        yield _checked(run / TERMS, read_terms)
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
        checked = _checked(file, lambda file: read_json(file, REMEDY))
        damaged = damaged or checked[1] is not None
        yield checked
    if not damaged:
        yield from _lost_lines(run, ledger)


def _lost_lines(run: Path, ledger: Path) -> Iterator[Checked]:
    """The files of the ledger with less spent money than the budget records for their writer."""
    budget, known = Budget(run / "budget"), Ledger(ledger, "")
    budget.refresh()
    known.refresh()
    for writer, hold in budget.holds.items():
        file, spent = ledger / f"{writer}{SUFFIX}", known.committed(writer)[0]
        if file.exists() and spent < hold.spent:
            found, expected = f"{spent:,} nanodollars spent", f"{hold.spent:,}, as {run / 'budget'} says"
            yield str(file), CorruptError(file, found, expected, "restore the file from a copy")
