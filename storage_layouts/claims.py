"""Claims: which worker computes which shard, decided without a server, also on NFS and Lustre.

    claims/00012-000.json    the worker that took shard 12
    claims/00012-001.json    the worker that took it over, because the first one fell silent

A claim is published under a name that only one writer can give (`publish_first`), so of two workers that reach for the
same shard one gets it. Nobody waits for a lock: a claim whose worker is dead is simply followed by the next number.
Claims only save work. A shard that two workers compute all the same has the same bytes, and its receipt is the truth.
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
    """The claim on one shard that counts: the one with the highest number."""

    shard: int
    number: int
    path: Path

    def worker(self) -> str:
        """Name of the worker that made it, or "" if the claim is gone meanwhile or holds something else."""
        with contextlib.suppress(ValueError, KeyError, TypeError), unless_removed(self.path):
            return str(json.loads(self.path.read_bytes())["worker"])
        return ""


def _file(folder: Path, shard: int, number: int) -> Path:
    return folder / f"{shard_name(shard)}-{number:03d}.json"


def read_claims(folder: Path) -> dict[int, Claim]:
    """The claims that count, by shard: one listing of one folder."""
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
    """Claim a free shard, or one whose claim `after` is of a dead worker. None if somebody else was faster."""
    number = 0 if after is None else after.number + 1
    path = _file(folder, shard, number)
    if publish_first(path, json.dumps({"worker": worker}).encode() + b"\n", flush=False):
        return Claim(shard, number, path)
    return None


def drop_claim(folder: Path, claim: Claim) -> None:
    """Give a shard back, or say that it is done: removes this claim and those that it followed."""
    for number in range(claim.number + 1):
        _file(folder, claim.shard, number).unlink(missing_ok=True)
