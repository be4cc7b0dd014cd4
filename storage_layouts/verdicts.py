"""Verdicts: what a judge said of the candidate words of one patch; JSON lines in the folder of a judge run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from storage_layouts.errors import CorruptError
from storage_layouts.files import FileDigest, canonical_json, read_checked, write_atomic
from storage_layouts.run_identity import receipt_remedy
from storage_layouts.runs import RunFolder

OUTCOMES = ("yes", "no", "refused", "unparsable", "failed")
CONTROLS = ("", "other-patch", "random-words")
ASKED = "asked"
"""The fact of a receipt that says for each judge how many things it was asked and answered, why it did not,
and of how many nobody knows whether they were paid, if there are any."""
UNKNOWN_PAYMENTS = "unknown_payments"
"""The fact of a receipt that lists the requests of which nobody knows whether they were paid."""


def unknown_payments(facts: Mapping[str, Any], judge: str) -> int:
    """How many failed verdicts of a judge stand for requests that may have been paid, by the facts of a receipt.

    Only ``--resend-unknown`` asks these again. Older receipts do not say which judge of a panel they are of.
    """
    told: int | None = facts.get(ASKED, {}).get(judge, {}).get("unknown")
    if told is None:
        return len(facts.get(UNKNOWN_PAYMENTS, ())) if list(facts.get("outcomes", {})) == [judge] else 0
    return told


@dataclass(frozen=True)
class Verdict:
    """What a judge said of one (patch, candidate words).

    Attributes:
        image_id, view, row, col: the patch.
        layer, lens: where the candidates come from.
        control: "" for the patch's own candidates, else where the words were taken instead.
        candidates: the words that were judged.
        outcome: one of `OUTCOMES`; only yes and no enter a rate.
        fitting: those of the candidates that fit.
        reply: what the judge answered, as it came.
        usage: tokens and money, as JSON.
        judge: which judge.
        key: hash of the request.
        repeat: how often this judge had been asked the same before; rates use the first reply, 0.
        edge_distance: how far the patch is from the edge of the object on it, in sides of the patch, where that is
            known.

    """

    image_id: int
    view: int
    row: int
    col: int
    layer: int
    lens: str
    control: str
    candidates: tuple[str, ...]
    outcome: str
    fitting: tuple[str, ...] = ()
    reply: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    judge: str = ""
    key: str = ""
    repeat: int = 0
    edge_distance: float | None = None

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome {self.outcome!r}: expected one of {OUTCOMES}")
        if self.control not in CONTROLS:
            raise ValueError(f"control {self.control!r}: expected one of {CONTROLS}")


COLUMNS = tuple(column.name for column in fields(Verdict))
_LATER = {"repeat": 0, "edge_distance": None}
"""Fields that older runs do not have, which are written only where they hold something else than this."""


def write_verdicts(path: Path | str, verdicts: Iterable[Verdict]) -> FileDigest:
    """Write verdicts as JSON lines, the whole file atomically; same verdicts, same bytes."""
    return write_atomic(path, b"".join(canonical_json(_line(verdict)) + b"\n" for verdict in verdicts))


def _line(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON; a first reply does not say that it is one, and what is not known is not there."""
    # Not asdict, which would copy every value.
    return {
        name: getattr(verdict, name) for name in COLUMNS if name not in _LATER or getattr(verdict, name) != _LATER[name]
    }


def parse_verdicts(path: Path, data: bytes) -> list[Verdict]:
    """The verdicts in the bytes of a file of `write_verdicts`. CorruptError if it is none."""
    verdicts = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            content = json.loads(line)
            for name in ("candidates", "fitting"):
                content[name] = tuple(content[name])
            verdicts.append(Verdict(**content))
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptError(path, f"in line {number} {error}", "a verdict") from error
    return verdicts


def read_verdicts(run: RunFolder) -> pd.DataFrame:
    """All verdicts of a complete judge run, one line each with the fields of `Verdict`, in shard order.

    Raises:
        IncompleteError: shards are missing.
        CorruptError: a file is missing or changed.

    """
    run.require_complete()
    verdicts: list[Verdict] = []
    for receipt in run.receipts():
        for name, digest in receipt.files.items():
            if name.startswith("verdicts/"):
                data = read_checked(run.path / name, digest, receipt_remedy(receipt.shard))
                verdicts += parse_verdicts(run.path / name, data)
    # Not asdict, which would copy every value.
    rows = [[getattr(verdict, name) for name in COLUMNS] for verdict in verdicts]
    return pd.DataFrame(rows, columns=list(COLUMNS))
