"""Verdicts of judges on the candidate words of patches; JSON lines in the folder of a judge run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage_layouts.errors import CorruptError
from storage_layouts.files import FileDigest, canonical_json, read_checked, write_atomic
from storage_layouts.run_identity import receipt_remedy
from storage_layouts.runs import RunFolder

if TYPE_CHECKING:
    import pandas as pd

OUTCOMES = ("yes", "no", "refused", "unparsable", "failed")
CONTROLS = ("", "other-patch", "random-words")
ASKED = "asked"
"""Fact of a receipt: for each judge the numbers of questions and answers, the most frequent reason for a missing
answer, and the number of questions whose payment is unknown, if any."""
UNKNOWN_PAYMENTS = "unknown_payments"
"""Fact of a receipt: the keys of the requests whose payment is unknown."""


def unknown_payments(facts: Mapping[str, Any], judge: str) -> int:
    """Number of failed verdicts of a judge whose requests may have been paid, by the facts of a receipt.

    Only ``--resend-unknown`` sends them again. Older receipts do not have this number for the judges of a panel.
    """
    count: int | None = facts.get(ASKED, {}).get(judge, {}).get("unknown")
    if count is None:
        return len(facts.get(UNKNOWN_PAYMENTS, ())) if list(facts.get("outcomes", {})) == [judge] else 0
    return count


@dataclass(frozen=True)
class Verdict:
    """The verdict of a judge on the candidate words of one patch.

    Attributes:
        image_id, view, row, col: the patch.
        layer, lens: source of the candidates.
        control: one of `CONTROLS`: "" for the candidates of the patch, else the source of the words used instead.
        candidates: the words that were judged.
        outcome: one of `OUTCOMES`; only yes and no enter a rate.
        fitting: the candidates that fit.
        reply: the judge's answer, unchanged.
        usage: tokens and money, as JSON.
        judge: SPEC of the judge.
        key: hash of the request.
        repeat: 0 for the first reply to the same question, which rates use, then 1, 2, ...
        edge_distance: distance of the patch from the edge of the object on it, in sides of the patch, if known.

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


def write_verdicts(path: Path, verdicts: Iterable[Verdict]) -> FileDigest:
    """Write verdicts as JSON lines, atomically; fields of `_LATER` are left out at their default."""
    lines = (
        {name: value for name, value in vars(verdict).items() if name not in _LATER or value != _LATER[name]}
        for verdict in verdicts
    )
    return write_atomic(path, b"".join(canonical_json(line) + b"\n" for line in lines))


def parse_verdicts(path: Path, data: bytes) -> list[Verdict]:
    """The verdicts in the bytes of a file of `write_verdicts`. CorruptError for any other content."""
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
    """All verdicts of a complete judge run: one row each, columns as the fields of `Verdict`, in shard order.

    IncompleteError if shards are missing, CorruptError if a file is missing or changed.
    """
    import pandas as pd

    run.require_complete()
    verdicts: list[Verdict] = []
    for receipt in run.receipts():
        for name, digest in receipt.files.items():
            if name.startswith("verdicts/"):
                data = read_checked(run.path / name, digest, receipt_remedy(receipt.shard))
                verdicts += parse_verdicts(run.path / name, data)
    # Not asdict, which would copy every value.
    return pd.DataFrame([list(vars(verdict).values()) for verdict in verdicts], columns=list(COLUMNS))
