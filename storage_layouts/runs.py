"""The run folder: one stage with one configuration, and the record of what is done.

    planning.json         same content as run.json, while commands plan for the folder; see run_owner.py
    run.json              stage, configuration, hashes of the inputs; created once, and never replaced
    plan.json             number of items and shards, and the digests of the files that the planning wrote
    receipts/00012.json   shard 12 is done: number of items, and the digests of its files
    claims/ failures/     which worker computes a shard now; which shards failed, and why
    attempts/ heartbeats/ submissions/   logs of the workers and of what started them
    planning/             a run of its own, while several workers plan this one; see planning_tables.py

A receipt is written after its data: a shard without a receipt counts as not computed. Plan and receipts name the run
that they belong to, so files of another run are detected. Both have the same bytes in every repetition.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from storage_layouts.attempts import (
    WorkerLog,
    read_attempts,
    read_heartbeats,
    remove_heartbeat,
    write_heartbeat,
)
from storage_layouts.claims import Claim, drop_claim, read_claims, take_claim
from storage_layouts.counts import share
from storage_layouts.differences import differences_table
from storage_layouts.errors import CorruptError, IncompleteError, InputError
from storage_layouts.failures import MAX_TRIES, read_failure, read_failures, remove_failures, write_failure
from storage_layouts.files import (
    FileDigest,
    check_size,
    is_leftover,
    json_bytes,
    parse_json,
    publish_first,
    read_checked,
    read_json,
    write_atomic,
)
from storage_layouts.machine_errors import reading
from storage_layouts.run_identity import plan_id, receipt_remedy, run_content
from storage_layouts.run_owner import begin_planning, end_planning, read_run, require_owner, withdraw
from storage_layouts.shards import (
    PLAN_REMEDY,
    Plan,
    Receipt,
    Shard,
    listed_shards,
    plan_from_json,
    plan_to_json,
    receipt_from_json,
    receipt_to_json,
    shard_name,
)
from storage_layouts.zarr_metadata import read_metadata

__all__ = ["Plan", "Receipt", "RunFolder", "Shard", "WorkerLog"]


PLANNING = "planning"
"""The folder of a planning that several workers share, in the folder of the run."""


class RunFolder:
    """One run on disk: `create` it in the stage that writes it, `open` it to read it.

    Attributes:
        path: the folder.
        stage: "extract", "analyze", "judge", ...
        run_id: 16 hex digits, a hash of stage, configuration and inputs.
        config: the configuration, as JSON.
        inputs: content hashes of the inputs, as JSON.
        versions: of the packages that created it.
        created: ``command``, ``time`` (ISO 8601, UTC), ``host`` and ``commit`` of its first command; {} in old runs.

    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path.resolve() if ".." in path.parts else path  # it is printed, also in reports
        self.stage: str = content["stage"]
        self.run_id: str = content["run_id"]
        self.config: dict[str, Any] = content["config"]
        self.inputs: dict[str, Any] = content["inputs"]
        self.versions: dict[str, str] = content["versions"]
        self.created: dict[str, Any] = content.get("created", {})
        self._content = content
        self._then: Callable[[RunFolder], None] = lambda run: None
        self._made: list[Path] = []
        self._plan: Plan | None = None
        self._plan_id = ""

    @classmethod
    def create(
        cls,
        path: Path | str,
        stage: str,
        config: dict[str, Any],
        inputs: dict[str, Any],
        command: str = "",
        then: Callable[[RunFolder], None] = lambda run: None,
    ) -> RunFolder:
        """Begin a run in a new or empty folder, or resume the same run.

        Nothing but planning.json is written before `settle`.

        Args:
            path: the folder; created with its parents if needed.
            stage: name of the stage.
            config: what defines the result, as JSON (tuples become lists). ValueError for NaN.
            inputs: content hashes of the inputs, as JSON.
            command: the command line that repeats the run.
            then: called with the run as soon as the folder belongs to it: now, or by `settle`.

        Raises:
            InputError: the folder belongs to another run (a table shows what differs), holds other files, or cannot
                be written.
            CorruptError: its run.json is damaged.

        """
        run = cls(Path(path), run_content(stage, config, inputs, command))
        run._then = then
        run._made = [folder for folder in (run.path, *run.path.parents) if not folder.exists()]
        if begin_planning(Path(path), run._content):
            run.settle()
        return run

    def settle(self) -> None:
        """Publish run.json; must be called before a stage writes its first file.

        The first run owns the folder; InputError, with a table of what differs, if it is another one.
        """
        publish_first(self.path / "run.json", json_bytes(self._content))
        self.require_own()
        end_planning(self.path)
        then, self._then = self._then, lambda run: None
        then(self)

    def release(self) -> None:
        """Let another run have the folder, as the input of this one was refused before it had a plan.

        Nothing is removed: the same run goes on with what it has.
        """
        if self.plan is None:
            (self.path / "run.json").replace(self.path / "planning.json")

    @contextlib.contextmanager
    def withdrawn_if_refused(self) -> Iterator[None]:
        """Leave the place as it was before `create` if the block raises an InputError before `settle`."""
        try:
            yield
        except InputError:
            withdraw(self.path, self.run_id, self._made)
            raise

    def require_own(self) -> None:
        """Raises InputError, with a table of what differs, if the folder belongs to another run by now."""
        there = require_owner(self.path, self._content)
        self.versions, self.created = there["versions"], there.get("created", {})

    @classmethod
    def open(cls, path: Path | str, stage: str | None = None) -> RunFolder:
        """Open an existing run, which may be incomplete or not yet planned.

        InputError if it is no run folder, or of another stage or a newer format; CorruptError if run.json is damaged.
        """
        content = read_run(Path(path))
        if stage is not None and content["stage"] != stage:
            raise InputError(f"{path}: a run of the stage {content['stage']!r}, expected {stage!r}")
        return cls(Path(path), content)

    # The plan

    def write_plan(self, items: int, items_per_shard: int, files: dict[str, FileDigest], facts: dict[str, Any]) -> None:
        """Write plan.json, the last file of the planning. See `Plan` for the arguments.

        InputError if the run already has another plan, or the folder belongs to another run.
        """
        self.settle()
        plan = Plan(items, items_per_shard, dict(files), dict(facts))
        for name, digest in plan.files.items():
            check_size(self.path / name, digest)
        content = {"run_id": self.run_id, **plan_to_json(plan)}
        file, data = self.path / "plan.json", json_bytes(content)
        ours = publish_first(file, data)
        found = content if ours else read_json(file, PLAN_REMEDY)
        if json_bytes(found) != data:
            raise InputError(
                f"{file}: the run already has another plan; did its inputs change?\n"
                + differences_table(found, content)
            )

    @property
    def plan(self) -> Plan | None:
        """The plan, or None before the planning has ended. CorruptError if plan.json is damaged."""
        if self._plan is None:
            file = self.path / "plan.json"
            try:
                with reading(file):
                    data = file.read_bytes()
            except FileNotFoundError:
                return None
            content = parse_json(file, data, PLAN_REMEDY)
            plan = plan_from_json(file, content)
            if content["run_id"] != self.run_id:
                self.require_own()
                raise CorruptError(file, f"a plan of run {content['run_id']}", self.run_id, PLAN_REMEDY)
            self._plan, self._plan_id = plan, plan_id(data)
        return self._plan

    def require_plan(self) -> Plan:
        """The plan. IncompleteError if the planning has not ended."""
        plan = self.plan
        if plan is None:
            raise IncompleteError(f"{self.path}: no plan.json yet; repeat the command that makes this run")
        return plan

    @property
    def plan_id(self) -> str:
        """16 hex digits that the receipts repeat. IncompleteError before the planning has ended."""
        self.require_plan()
        return self._plan_id

    def read_plan_file(self, name: str) -> bytes:
        """Bytes of a file that the planning wrote. CorruptError if they changed or the plan has no such file."""
        files = self.require_plan().files
        if name not in files:
            raise CorruptError(self.path / "plan.json", "no digest", f"one of {name}", PLAN_REMEDY)
        read = read_metadata if name.endswith("zarr.json") else read_checked
        return read(self.path / name, files[name], PLAN_REMEDY)

    # Receipts

    def receipt_path(self, shard: int) -> Path:
        """Path of the receipt of a shard."""
        return self.path / "receipts" / f"{shard_name(shard)}.json"

    def write_receipt(self, receipt: Receipt) -> None:
        """Record that a shard is done. Its files must be on the disk already: CorruptError if not."""
        self.require_own()
        self.require_plan().shard(receipt.shard)
        for name, digest in receipt.files.items():
            check_size(self.path / name, digest)
        content = {"run_id": self.run_id, "plan_id": self.plan_id, **receipt_to_json(receipt)}
        write_atomic(self.receipt_path(receipt.shard), json_bytes(content))

    def read_receipt(self, shard: int) -> Receipt | None:
        """The receipt of a shard, or None. CorruptError if it is damaged or of another run or plan."""
        file = self.receipt_path(shard)
        try:
            with reading(file):
                data = file.read_bytes()
        except FileNotFoundError:
            return None
        remedy = receipt_remedy(shard)
        content = parse_json(file, data, remedy)
        receipt = receipt_from_json(file, content, remedy)
        expected = {"run_id": self.run_id, "plan_id": self.plan_id, "shard": shard}
        for key, value in expected.items():
            if content[key] != value:
                self.require_own()
                raise CorruptError(file, f"a receipt of {key} {content[key]}", value, remedy)
        return receipt

    def done(self) -> set[int]:
        """Indices of the shards with a receipt: one listing of one folder."""
        return listed_shards(self.path / "receipts")

    def missing(self) -> list[Shard]:
        """The shards without a receipt, in order. IncompleteError if there is no plan yet."""
        plan, done = self.require_plan(), self.done()
        return [plan.shard(index) for index in range(plan.shard_count) if index not in done]

    def is_complete(self) -> bool:
        """Whether the run is planned and every shard has a receipt."""
        return self.plan is not None and not self.missing()

    def require_complete(self) -> None:
        """Raises IncompleteError, with the number and names of the missing shards, unless the run is complete."""
        missing = self.missing()
        if missing:
            count = self.require_plan().shard_count
            names = ", ".join(shard.name for shard in missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise IncompleteError(
                f"{self.path}: {share(len(missing), count, 'shard')} {'is' if count == 1 else 'are'} missing "
                f"({names}); repeat the command that makes this run"
            )

    def receipts(self) -> Iterator[Receipt]:
        """The existing receipts in the order of the shards. CorruptError if one is damaged."""
        plan = self.require_plan()
        for index in sorted(self.done()):
            receipt = self.read_receipt(index) if index < plan.shard_count else None
            if receipt is not None:
                yield receipt

    def check_sizes(
        self, allow_incomplete: bool = False, wanted: Callable[[str], bool] = lambda name: True
    ) -> dict[int, Receipt]:
        """Check the size of every file in the plan and, if its name is ``wanted``, in the receipts.

        Returns the receipts by shard. IncompleteError if the run is not planned, or (unless ``allow_incomplete``)
        shards are missing; CorruptError if a file is missing or has another size.
        """
        plan = self.require_plan()
        if not allow_incomplete:
            self.require_complete()
        for name, digest in plan.files.items():
            if not name.endswith("zarr.json"):  # zarr-python may extend it; `read_plan_file` compares it
                check_size(self.path / name, digest, PLAN_REMEDY)
        receipts = {receipt.shard: receipt for receipt in self.receipts()}
        seen = set()  # many receipts may name the same file
        for receipt in receipts.values():
            for entry in receipt.files.items():
                if entry not in seen and wanted(entry[0]):
                    check_size(self.path / entry[0], entry[1], receipt_remedy(receipt.shard))
                seen.add(entry)
        return receipts

    # Claims and failures

    def claims(self) -> dict[int, Claim]:
        """The claimed shards, finished or not; see `storage_layouts.claims`."""
        return read_claims(self.path / "claims")

    def take(self, shard: int, worker: str, after: Claim | None = None) -> Claim | None:
        """Claim a shard for a worker; None if it is done or another worker has claimed it.

        Args:
            shard: its index.
            worker: name of the worker.
            after: the claim of a dead worker, to be superseded.

        Raises:
            InputError: the folder was deleted and belongs to another run.

        """
        self.require_own()
        claim = take_claim(self.path / "claims", shard, worker, after)
        # Tested after claiming: a worker that finishes a shard writes the receipt before it drops the claim.
        if claim is not None and self.receipt_path(shard).exists():
            self.drop(claim)
            return None
        return claim

    def drop(self, claim: Claim) -> None:
        """Remove the claim on a shard, finished or not."""
        drop_claim(self.path / "claims", claim)

    def failures(self) -> dict[int, dict[str, Any]]:
        """The failures of shards without a receipt, by shard: tries, worker, host, time, traceback, log."""
        failures = read_failures(self.path / "failures")
        done = self.done() if failures else set()
        return {shard: failure for shard, failure in failures.items() if shard not in done}

    def tries(self, shard: int) -> int:
        """How often a shard has failed."""
        return int(read_failure(self.path / "failures", shard).get("tries", 0))

    def note_failure(self, shard: int, worker: str, traceback_text: str, log: str = "") -> None:
        """Count one more failure of a shard."""
        write_failure(self.path / "failures", shard, self.tries(shard) + 1, worker, traceback_text, log)

    def quarantined(self) -> set[int]:
        """The shards that failed `MAX_TRIES` times and are not tried again."""
        return {shard for shard, failure in self.failures().items() if failure["tries"] >= MAX_TRIES}

    def retry_failed(self) -> int:
        """Forget the failures, so that the shards are tried again; returns how many there were."""
        return remove_failures(self.path / "failures")

    def unfinished(self) -> bool:
        """Whether work is left: no plan yet, or a shard that is neither done nor quarantined."""
        return self.plan is None or bool({shard.index for shard in self.missing()} - self.quarantined())

    def remove_leftovers(self) -> None:
        """Remove temporary files of killed writers, claims of dead workers and the planning from a complete run."""
        self.require_complete()
        for folder, _, names in os.walk(self.path):
            for name in filter(is_leftover, names):
                (Path(folder) / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / PLANNING, ignore_errors=True)
        for claim in self.claims().values():
            self.drop(claim)
        end_planning(self.path)

    # Logs

    def attempt(self, worker: str, log: str = "", device: str = "") -> WorkerLog:
        """The log of a worker, to append to. `log`: path of its output; `device`: its torch device."""
        return WorkerLog(self.path / "attempts", worker, log, device)

    def attempts_log(self, workers: str = "*") -> list[dict[str, Any]]:
        """All attempts in order of time, of the workers whose names match a pattern; see `WorkerLog`."""
        return read_attempts(self.path / "attempts", workers)

    def beat(self, worker: str, **state: Any) -> None:
        """Write the heartbeat of a worker. InputError if the folder belongs to another run."""
        self.require_own()
        write_heartbeat(self.path / "heartbeats", worker, state)

    def end_beat(self, worker: str) -> None:
        """Remove the heartbeat of a worker that ends normally."""
        remove_heartbeat(self.path / "heartbeats", worker)

    def heartbeats(self, workers: Collection[str] | None = None) -> list[dict[str, Any]]:
        """The last heartbeats of all or some workers that have not ended normally; see `read_heartbeats`."""
        return read_heartbeats(self.path / "heartbeats", workers)
