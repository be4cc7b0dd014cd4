"""The work of a run as data: shard (a range of items), plan (all of them), receipt (one that is done)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from storage_layouts.errors import CorruptError
from storage_layouts.fields import COUNT, OBJECT, SIZE, TEXT, Kind, check_fields, list_of, optional, shown
from storage_layouts.files import FileDigest

MOST_SHARDS = 1_000_000  # no folder holds so many receipts: the numbers are wrong
PLAN_REMEDY = "delete plan.json and repeat the command"
PLAN_FIELDS = {"run_id": TEXT, "items": COUNT, "items_per_shard": SIZE, "files": OBJECT, "facts": OBJECT}
RECEIPT_FIELDS = {"run_id": TEXT, "plan_id": TEXT, "shard": COUNT, "items": COUNT, "files": OBJECT, "facts": OBJECT}
_SKIPPED = Kind("an object with path and reason", lambda value: isinstance(value, dict) and _has_reason(value))
_COUNTS = Kind(
    "counts by judge and outcome", lambda value: isinstance(value, dict) and all(map(_counts, value.values()))
)
_ASKED = {"things": COUNT, "answered": COUNT, "why": TEXT, "unknown": replace(COUNT, optional=True)}
FACTS = {
    name: replace(kind, optional=True)
    for name, kind in {
        "unreadable": list_of(_SKIPPED),
        "outcomes": _COUNTS,
        "unknown_payments": list_of(TEXT),
        "asked": Kind("what each judge was asked", lambda value: _all_fit(value, _ASKED)),
    }.items()
}
"""Facts of receipts that commands show."""
_CRC = Kind("eight hex digits", lambda value: isinstance(value, str) and len(value) == 8)
DIGEST_FIELDS = {"bytes": COUNT, "crc32": _CRC, "chunks": optional(_CRC)}


def _all_fit(by_name: Any, kinds: Mapping[str, Kind]) -> bool:
    """Whether it is an object of objects with fields of these kinds."""
    return isinstance(by_name, dict) and all(
        isinstance(one, dict)
        and all(kind.fits(one[name]) if name in one else kind.optional for name, kind in kinds.items())
        for one in by_name.values()
    )


def _has_reason(skipped: dict[str, Any]) -> bool:
    return all(isinstance(skipped.get(name), str) for name in ("path", "reason"))


def _counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(COUNT.fits, value.values()))


def shard_name(index: int) -> str:
    """Name of a shard in file names, for example ``00012``."""
    return f"{index:05d}"


@dataclass(frozen=True)
class Shard:
    """The items ``first`` up to but not including ``stop`` of a run: the unit of work and of resume."""

    index: int
    first: int
    stop: int

    @property
    def name(self) -> str:
        """Name in file names, for example ``00012``."""
        return shard_name(self.index)

    @property
    def items(self) -> int:
        """How many items it holds."""
        return self.stop - self.first


@dataclass(frozen=True)
class Plan:
    """What a run consists of.

    Attributes:
        items: number of items (rows of a store, images, ...); shard i holds the items from
            ``i * items_per_shard`` on.
        items_per_shard: the last shard may hold fewer.
        files: what the planning wrote, by path relative to the run folder, with "/" as separator.
        facts: small JSON, the same whenever the plan is made again: no times, hosts or process ids.

    """

    items: int
    items_per_shard: int
    files: dict[str, FileDigest] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.items < 0 or self.items_per_shard < 1:
            raise ValueError(f"{self.items} items in shards of {self.items_per_shard}")

    @property
    def shard_count(self) -> int:
        """Number of shards."""
        return -(-self.items // self.items_per_shard)

    def shard(self, index: int) -> Shard:
        """Shard number ``index``. IndexError if the plan has no such shard."""
        if not 0 <= index < self.shard_count:
            raise IndexError(f"shard {index} of {self.shard_count}")
        first = index * self.items_per_shard
        return Shard(index, first, min(first + self.items_per_shard, self.items))

    def items_of(self, shards: Collection[int]) -> int:
        """How many items some shards hold together, by their indices."""
        if not shards:
            return 0
        last = self.shard(self.shard_count - 1)
        return len(shards) * self.items_per_shard - (self.items_per_shard - last.items) * (last.index in shards)

    def shards(self) -> list[Shard]:
        """All shards in order."""
        return [self.shard(index) for index in range(self.shard_count)]


@dataclass(frozen=True)
class Receipt:
    """Says that a shard is done. Written last, after all its data are on the disk.

    Attributes:
        shard: its index.
        items: how many items were done.
        files: every data file of the shard, by path relative to the run folder ("/" as separator).
        facts: small JSON, the same whenever the shard is done again: no times, hosts or process ids.

    """

    shard: int
    items: int
    files: dict[str, FileDigest] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Fields of a plan in plan.json."""
    files = files_to_json(plan.files)
    return {"items": plan.items, "items_per_shard": plan.items_per_shard, "files": files, "facts": plan.facts}


def plan_from_json(file: Path, content: Any) -> Plan:
    """Inverse of `plan_to_json`; other fields are ignored. CorruptError if a field is not as there."""
    check_fields(file, content, PLAN_FIELDS, PLAN_REMEDY)
    files = files_from_json(file, content["files"], PLAN_REMEDY)
    plan = Plan(content["items"], content["items_per_shard"], files, content["facts"])
    if plan.shard_count > MOST_SHARDS:
        found = f"items = {plan.items}, items_per_shard = {plan.items_per_shard}"
        raise CorruptError(file, found, f"at most {MOST_SHARDS} shards", PLAN_REMEDY)
    return plan


def receipt_to_json(receipt: Receipt) -> dict[str, Any]:
    """Fields of a receipt in its file."""
    files = files_to_json(receipt.files)
    return {"shard": receipt.shard, "items": receipt.items, "files": files, "facts": receipt.facts}


def receipt_from_json(file: Path, content: Any, remedy: str) -> Receipt:
    """Inverse of `receipt_to_json`; other fields are ignored. CorruptError if a field is not as there."""
    check_fields(file, content, RECEIPT_FIELDS, remedy)
    check_fields(file, content["facts"], FACTS, remedy, "facts")
    files = files_from_json(file, content["files"], remedy)
    return Receipt(content["shard"], content["items"], files, content["facts"])


def files_to_json(files: Mapping[str, FileDigest]) -> dict[str, Any]:
    """Digests by path as JSON. ValueError for a path that leads out of the run folder."""
    for name in files:
        if not _stays_inside(name):
            raise ValueError(f"{name!r} is not a plain path relative to the run folder")
    return {
        name: {
            "bytes": digest.bytes,
            "crc32": digest.crc32,
            **({"chunks": digest.chunks} if digest.chunks else {}),
        }
        for name, digest in files.items()
    }


def files_from_json(file: Path, content: Mapping[str, Any], remedy: str) -> dict[str, FileDigest]:
    """Inverse of `files_to_json`, in the order of the paths.

    CorruptError (naming ``file``) for a path that leads out of the run folder, and for what is no digest.
    """
    files = {}
    for name, digest in sorted(content.items()):
        if not _stays_inside(name):
            raise CorruptError(file, f"files: {shown(name)}", "names of files inside the run folder", remedy)
        check_fields(file, digest, DIGEST_FIELDS, remedy, f"files.{name}")
        files[name] = FileDigest(digest["bytes"], digest["crc32"], digest.get("chunks"))
    return files


def _stays_inside(name: str) -> bool:
    """Whether a path is relative, without ".." and the like, of letters that can be shown, and short enough."""
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and len(name) < 1000
    return plain and not any(part in ("", ".", "..") or len(part) > 200 for part in parts)
