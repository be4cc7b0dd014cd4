"""The work of a run as data: shard (a range of items), plan (all shards), receipt (a shard that is done)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from storage_layouts.errors import CorruptError
from storage_layouts.fields import COUNT, OBJECT, SIZE, TEXT, Kind, check_fields, list_of, object_of, optional, shown
from storage_layouts.files import FileDigest

MOST_SHARDS = 1_000_000  # more receipts than a folder can hold: the numbers are wrong
PLAN_REMEDY = "delete plan.json and repeat the command"
PLAN_FIELDS = {"run_id": TEXT, "items": COUNT, "items_per_shard": SIZE, "files": OBJECT, "facts": OBJECT}
RECEIPT_FIELDS = {"run_id": TEXT, "plan_id": TEXT, "shard": COUNT, "items": COUNT, "files": OBJECT, "facts": OBJECT}
_ASKED = {"things": COUNT, "answered": COUNT, "why": TEXT, "unknown": replace(COUNT, optional=True)}
FACTS = {
    name: replace(kind, optional=True)
    for name, kind in {
        "unreadable": list_of(object_of({"path": TEXT, "reason": TEXT}, "an object with path and reason")),
        "outcomes": object_of(object_of(COUNT), "counts by judge and outcome"),
        "unknown_payments": list_of(TEXT),
        "asked": object_of(object_of(_ASKED), "what each judge was asked"),
        "sinks": list_of(COUNT),
    }.items()
}
"""Facts of receipts that commands show."""
_CRC = Kind("eight hex digits", lambda value: isinstance(value, str) and len(value) == 8)
DIGEST_FIELDS = {"bytes": COUNT, "crc32": _CRC, "chunks": optional(_CRC), "layer_chunks": optional(list_of(_CRC))}


def shard_name(index: int) -> str:
    """Name of a shard in file names, for example ``00012``."""
    return f"{index:05d}"


def part_name(folder: str, shard: int) -> str:
    """Path of a shard's Parquet file in a folder of the run, for example ``results/part-00012.parquet``."""
    return f"{folder}/part-{shard_name(shard)}.parquet"


def listed_shards(folder: Path) -> set[int]:
    """The shards with a file ``00012.json`` in a folder; empty if there is no such folder."""
    with contextlib.suppress(FileNotFoundError):
        stems = (entry.name[:-5] for entry in os.scandir(folder) if entry.name.endswith(".json"))
        return {int(stem) for stem in stems if stem.isdecimal() and stem == shard_name(int(stem))}
    return set()


@dataclass(frozen=True)
class Shard:
    """The items [``first``, ``stop``) of a run: the unit of work and of resume."""

    index: int
    first: int
    stop: int

    @property
    def name(self) -> str:
        """Name in file names, for example ``00012``."""
        return shard_name(self.index)

    @property
    def items(self) -> int:
        """Number of items."""
        return self.stop - self.first


@dataclass(frozen=True)
class Plan:
    """All shards of a run.

    Attributes:
        items: number of items (rows of a store, images, ...); the first item of shard i is ``i * items_per_shard``.
        items_per_shard: the last shard may hold fewer.
        files: files that the planning wrote, by path relative to the run folder, with "/" as separator.
        facts: small JSON, the same in every repetition: no times, hosts or process ids.

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
        """Number of items of some shards together, given by their indices."""
        if not shards:
            return 0
        last = self.shard(self.shard_count - 1)
        return len(shards) * self.items_per_shard - (self.items_per_shard - last.items) * (last.index in shards)

    def shards(self) -> list[Shard]:
        """All shards in order."""
        return [self.shard(index) for index in range(self.shard_count)]


@dataclass(frozen=True)
class Receipt:
    """Record that a shard is done. Written last, after all its data are on the disk.

    Attributes:
        shard: its index.
        items: number of items.
        files: every data file of the shard, by path relative to the run folder ("/" as separator).
        facts: small JSON, the same in every repetition: no times, hosts or process ids.

    """

    shard: int
    items: int
    files: dict[str, FileDigest] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(digest.bytes for digest in self.files.values())


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Fields of a plan in plan.json."""
    files = files_to_json(plan.files)
    return {"items": plan.items, "items_per_shard": plan.items_per_shard, "files": files, "facts": plan.facts}


def plan_from_json(file: Path, content: Any) -> Plan:
    """Inverse of `plan_to_json`; other fields are ignored. CorruptError if a field is missing or of another kind."""
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
    """Inverse of `receipt_to_json`; other fields are ignored. CorruptError if a field is missing or of another kind."""
    check_fields(file, content, RECEIPT_FIELDS, remedy)
    check_fields(file, content["facts"], FACTS, remedy, "facts")
    files = files_from_json(file, content["files"], remedy)
    return Receipt(content["shard"], content["items"], files, content["facts"])


def files_to_json(files: Mapping[str, FileDigest]) -> dict[str, Any]:
    """Digests by path as JSON. ValueError for a path that leads out of the run folder."""
    for name in files:
        if not _stays_inside(name):
            raise ValueError(f"{name!r} is not a plain path relative to the run folder")
    return {name: _digest_to_json(digest) for name, digest in files.items()}


def _digest_to_json(digest: FileDigest) -> dict[str, Any]:
    content = {"bytes": digest.bytes, "crc32": digest.crc32}
    if len(digest.chunks) == 1:
        return {**content, "chunks": digest.chunks[0]}
    return {**content, "layer_chunks": list(digest.chunks)} if digest.chunks else content


def files_from_json(file: Path, content: Mapping[str, Any], remedy: str) -> dict[str, FileDigest]:
    """Inverse of `files_to_json`, in the order of the paths.

    CorruptError (naming ``file``) for a path that leads out of the run folder, or an invalid digest.
    """
    files = {}
    for name, digest in sorted(content.items()):
        if not _stays_inside(name):
            raise CorruptError(file, f"files: {shown(name)}", "names of files inside the run folder", remedy)
        check_fields(file, digest, DIGEST_FIELDS, remedy, f"files.{name}")
        one, several = digest.get("chunks"), digest.get("layer_chunks")
        files[name] = FileDigest(digest["bytes"], digest["crc32"], (one,) if one else tuple(several or ()))
    return files


def _stays_inside(name: str) -> bool:
    """Whether a path is relative, without ".." and the like, printable, and short enough."""
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and len(name) < 1000
    return plain and not any(part in ("", ".", "..") or len(part) > 200 for part in parts)
