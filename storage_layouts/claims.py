"""Claims: which worker computes which shard, decided without a server, also on NFS and Lustre.

    claims/00012-000.json    the worker that claimed shard 12
    claims/00012-001.json    the worker that took it over, because the first one sent no heartbeats

Only one writer can create a file of a name (`publish_first`), so only one of two workers gets a shard. There are no
locks: the claim of a dead worker is superseded by one with the next number. Claims only save work. A shard that two
workers compute has the same bytes from both, and its receipt decides whether it is done.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from storage_layouts.files import publish_first
from storage_layouts.machine_errors import unless_removed
from storage_layouts.shards import shard_name

_NAME = re.compile(r"(\d{5,})-(\d{3,})\.json")


@dataclass(frozen=True)
class Claim:
    """The valid claim on a shard, that is, the one with the highest number."""

    shard: int
    number: int
    path: Path

    def worker(self) -> str:
        """Name of the worker that made it, or "" if the file is missing or invalid."""
        with contextlib.suppress(ValueError, KeyError, TypeError), unless_removed(self.path):
            return str(json.loads(self.path.read_bytes())["worker"])
        return ""


def _file(folder: Path, shard: int, number: int) -> Path:
    return folder / f"{shard_name(shard)}-{number:03d}.json"


def read_claims(folder: Path) -> dict[int, Claim]:
    """The valid claims by shard: one listing of one folder."""
    found: dict[int, Claim] = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            name = _NAME.fullmatch(entry.name)
            if name is None:
                continue
            claim = Claim(int(name[1]), int(name[2]), Path(entry.path))
            if claim.shard not in found or found[claim.shard].number < claim.number:
                found[claim.shard] = claim
    return found


def take_claim(folder: Path, shard: int, worker: str, after: Claim | None = None) -> Claim | None:
    """Claim a free shard, or supersede the claim `after` of a dead worker. None if another worker was faster."""
    number = 0 if after is None else after.number + 1
    path = _file(folder, shard, number)
    if publish_first(path, json.dumps({"worker": worker}).encode() + b"\n", flush=False):
        return Claim(shard, number, path)
    return None


def drop_claim(folder: Path, claim: Claim) -> None:
    """Remove a claim and those that it superseded."""
    for number in range(claim.number + 1):
        _file(folder, claim.shard, number).unlink(missing_ok=True)
