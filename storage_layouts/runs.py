"""The run folder: one stage with one configuration, and the truth about what of it is done.

    planning.json         as run.json, of a command that is still planning; several may plan for one folder
    run.json              stage, configuration, hashes of the inputs; created once, and never replaced
    plan.json             how many items and shards, and the digests of the files that the planning wrote
    receipts/00012.json   shard 12 is done: how many items, and the digests of its files
    claims/ failures/     who computes a shard now; what failed, and why
    attempts/ heartbeats/ submissions/   logs of the workers and of what started them

The folder belongs to the run in run.json. A command publishes that file when its planning is done and before it
writes anything else (`RunFolder.settle`), so of several commands with different settings the first one to get there
has the folder, and the others have written nothing into it.

Data first, then the receipt: what has no receipt was never written. Plan and receipts name the run they
belong to, so a file from another run is noticed. Both have the same bytes in every repetition.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
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
    make_folder,
    parse_json,
    publish_first,
    read_checked,
    read_json,
    write_atomic,
)
from storage_layouts.machine_errors import reading, writing
from storage_layouts.other_files import instead_of_run
from storage_layouts.run_identity import (
    IDENTITY,
    RUN_REMEDY,
    check_run,
    plan_id,
    receipt_remedy,
    run_content,
)
from storage_layouts.shards import (
    PLAN_REMEDY,
    Plan,
    Receipt,
    Shard,
    plan_from_json,
    plan_to_json,
    receipt_from_json,
    receipt_to_json,
    shard_name,
)
from storage_layouts.zarr_metadata import read_metadata

__all__ = ["Plan", "Receipt", "RunFolder", "Shard", "WorkerLog"]


def _has_plan_of(path: Path, run_id: str) -> bool:
    """Whether a folder holds the plan of a run, though perhaps not its run.json any more."""
    try:
        return bool(read_json(path / "plan.json").get("run_id") == run_id)
    except CorruptError:
        return False


class RunFolder:
    """One run on disk. `create` for the stage that writes it, `open` for those that read it.

    Attributes:
        path: the folder.
        stage: "extract", "analyze", "judge", ...
        run_id: 16 hex digits, a hash of stage, configuration and inputs.
        config: the configuration, as JSON.
        inputs: what it was applied to, with content hashes, as JSON.
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
        self._plan: tuple[Plan, str] | None = None

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
        """Begin a run in a new or empty folder, or take up the same run again.

        Nothing but planning.json is written into a folder that is not settled yet; see `settle`.

        Args:
            path: the folder; created with its parents if needed.
            stage: name of the stage.
            config: what defines the result, as JSON (tuples become lists). ValueError for NaN.
            inputs: content hashes of what it is applied to, as JSON.
            command: the command line that makes the run, for those who want to repeat it.
            then: called with the run as soon as the folder is its own: now, or by `settle`.

        Raises:
            InputError: the folder belongs to another run (a table shows what differs), or holds
                other files, or it cannot be written.
            CorruptError: its run.json is damaged.

        """
        path = Path(path)
        run = cls(path, run_content(stage, config, inputs, command))
        run._then = then
        make_folder(path)
        others = [entry.name for entry in os.scandir(path) if not is_leftover(entry.name)]
        # Looked at after the listing, and in this order: whoever writes into the folder writes planning.json first, and
        # removes it when run.json is there.
        planning, settled = ((path / name).exists() for name in ("planning.json", "run.json"))
        if settled or _has_plan_of(path, run.run_id):
            run.settle()
        elif others and not planning:
            raise InputError(
                f"{path}: the folder is not empty and has no run.json (it holds {min(others)!r}); "
                "choose a new or empty folder"
            )
        else:
            write_atomic(path / "planning.json", json_bytes(run._content))
        return run

    def settle(self) -> None:
        """Make the folder this run's own; has to come before the first file that a stage writes into it.

        Publishing run.json decides it: the first writer wins, also between machines, and nobody replaces the file.

        Raises:
            InputError: the folder belongs to another run; a table shows what differs.

        """
        publish_first(self.path / "run.json", json_bytes(self._content))
        self.require_own()
        self._end_planning()
        then, self._then = self._then, lambda run: None
        then(self)

    def _end_planning(self) -> None:
        """Remove planning.json, which means nothing beside run.json: ours, or that of a command that came too late."""
        file = self.path / "planning.json"
        if file.exists():  # or nothing could be repeated in a folder that is read-only
            with writing(file):
                file.unlink(missing_ok=True)

    def require_own(self) -> None:
        """InputError, with a table of what differs, if the folder belongs to another run by now."""
        if not (self.path / "run.json").exists():
            return
        there = RunFolder.open(self.path)
        if there.run_id != self.run_id:
            found, asked = ({key: getattr(run, key) for key in IDENTITY} for run in (there, self))
            unplanned = not (self.path / "plan.json").exists() and not there.done()
            remedy = "; nothing was computed in it yet, so delete it if no command works on it" if unplanned else ""
            raise InputError(
                f"{self.path}: this folder belongs to another run; choose another folder or the same settings{remedy}\n"
                + differences_table(found, asked)
            )
        self.versions, self.created = there.versions, there.created

    @classmethod
    def open(cls, path: Path | str, stage: str | None = None) -> RunFolder:
        """Open an existing run, finished or not; one that is still being planned too.

        Raises:
            InputError: not a run folder, or one of another stage or of a newer format.
            CorruptError: run.json is damaged.

        """
        path = Path(path)
        file, content = path / "run.json", None
        with reading(file):
            settled = file.exists()
            if not settled:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # perhaps settled at this moment
                    planning = path / "planning.json"
                    content = parse_json(planning, planning.read_bytes(), RUN_REMEDY)
                settled = file.exists()
            if content is None and not settled:
                raise InputError(f"{path}: not a run folder ({instead_of_run(path)})")
        content = content or read_json(file, RUN_REMEDY)
        check_run(file, content)
        if stage is not None and content["stage"] != stage:
            raise InputError(f"{path}: a run of the stage {content['stage']!r}, expected {stage!r}")
        return cls(path, content)

    # The plan

    def write_plan(self, items: int, items_per_shard: int, files: dict[str, FileDigest], facts: dict[str, Any]) -> None:
        """Say what the run consists of; the last act of the planning. See `Plan` for the arguments.

        Raises:
            InputError: the run already has another plan, or the folder belongs to another run.

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

    def _read_plan(self) -> tuple[Plan, str] | None:
        """The plan and the checksum that receipts repeat."""
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
            self._plan = (plan, plan_id(data))
        return self._plan

    @property
    def plan(self) -> Plan | None:
        """The plan, or None before the planning has ended. CorruptError if plan.json is damaged."""
        found = self._read_plan()
        return found[0] if found else None

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
        assert self._plan is not None
        return self._plan[1]

    def read_plan_file(self, name: str) -> bytes:
        """Bytes of a file that the planning wrote. CorruptError if they changed or the plan has no such file."""
        files = self.require_plan().files
        if name not in files:
            raise CorruptError(self.path / "plan.json", "no digest", f"one of {name}", PLAN_REMEDY)
        if name.endswith("zarr.json"):
            return read_metadata(self.path / name, files[name], PLAN_REMEDY)
        return read_checked(self.path / name, files[name], PLAN_REMEDY)

    # Receipts

    def receipt_path(self, shard: int) -> Path:
        """Where the receipt of a shard is, or will be."""
        return self.path / "receipts" / f"{shard_name(shard)}.json"

    def write_receipt(self, receipt: Receipt) -> None:
        """Say that a shard is done. Its files must be on the disk already.

        Raises:
            CorruptError: a file that it names is not there with that size.
            IndexError: the plan has no such shard.
            InputError: the folder was deleted and belongs to another run.

        """
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
        try:
            names = [entry.name for entry in os.scandir(self.path / "receipts")]
        except FileNotFoundError:
            return set()
        stems = (name[:-5] for name in names if name.endswith(".json"))
        return {int(stem) for stem in stems if stem.isdecimal() and stem == shard_name(int(stem))}

    def missing(self) -> list[Shard]:
        """The shards without a receipt, in order. IncompleteError if there is no plan yet."""
        plan, done = self.require_plan(), self.done()
        return [plan.shard(index) for index in range(plan.shard_count) if index not in done]

    def is_complete(self) -> bool:
        """Whether the run is planned and every shard has a receipt."""
        return self.plan is not None and not self.missing()

    def require_complete(self) -> None:
        """IncompleteError, with the number and names of the missing shards, unless the run is complete."""
        missing = self.missing()
        if missing:
            count = self.require_plan().shard_count
            names = ", ".join(shard.name for shard in missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise IncompleteError(
                f"{self.path}: {share(len(missing), count, 'shard')} {'is' if count == 1 else 'are'} missing "
                f"({names}); repeat the command that makes this run"
            )

    def receipts(self) -> Iterator[Receipt]:
        """The receipts that are there, in the order of the shards. CorruptError if one is damaged."""
        plan = self.require_plan()
        for index in sorted(self.done()):
            receipt = self.read_receipt(index) if index < plan.shard_count else None
            if receipt is not None:
                yield receipt

    def check_sizes(
        self, allow_incomplete: bool = False, wanted: Callable[[str], bool] = lambda name: True
    ) -> dict[int, Receipt]:
        """Check that every file of the plan and of the receipts is there with its size; what readers do first.

        Files of the receipts whose name is not ``wanted`` are left out.

        Returns:
            The receipts by shard.

        Raises:
            IncompleteError: the run is not planned, or (unless ``allow_incomplete``) shards are missing.
            CorruptError: a file is missing or has another size.

        """
        plan = self.require_plan()
        if not allow_incomplete:
            self.require_complete()
        for name, digest in plan.files.items():
            if not name.endswith("zarr.json"):  # which zarr-python may make longer; `read_plan_file` compares it
                check_size(self.path / name, digest, PLAN_REMEDY)
        receipts = {receipt.shard: receipt for receipt in self.receipts()}
        for receipt in receipts.values():
            for name, digest in receipt.files.items():
                if wanted(name):
                    check_size(self.path / name, digest, receipt_remedy(receipt.shard))
        return receipts

    # Who works on what

    def claims(self) -> dict[int, Claim]:
        """The shards that somebody has taken, finished or not; see `storage_layouts.claims`."""
        return read_claims(self.path / "claims")

    def take(self, shard: int, worker: str, after: Claim | None = None) -> Claim | None:
        """Claim a shard for a worker; None if it is done already or somebody else has it.

        Args:
            shard: its index.
            worker: who takes it.
            after: the claim of a dead worker, to be followed.

        Raises:
            InputError: the folder was deleted and belongs to another run.

        """
        self.require_own()
        claim = take_claim(self.path / "claims", shard, worker, after)
        # Looked at after claiming: whoever finished it meanwhile wrote the receipt before dropping the claim.
        if claim is not None and self.receipt_path(shard).exists():
            self.drop(claim)
            return None
        return claim

    def drop(self, claim: Claim) -> None:
        """Give a shard back, finished or not."""
        drop_claim(self.path / "claims", claim)

    def failures(self) -> dict[int, dict[str, Any]]:
        """What failed and has no receipt, by shard: tries, worker, host, time, traceback, log."""
        failures = read_failures(self.path / "failures")
        done = self.done() if failures else set()
        return {shard: failure for shard, failure in failures.items() if shard not in done}

    def tries(self, shard: int) -> int:
        """How often a shard has failed: one look at one file."""
        return int(read_failure(self.path / "failures", shard).get("tries", 0))

    def note_failure(self, shard: int, worker: str, traceback_text: str, log: str = "") -> None:
        """Count one more failure of a shard."""
        write_failure(self.path / "failures", shard, self.tries(shard) + 1, worker, traceback_text, log)

    def quarantined(self) -> set[int]:
        """The shards that failed too often to be tried again."""
        return {shard for shard, failure in self.failures().items() if failure["tries"] >= MAX_TRIES}

    def retry_failed(self) -> int:
        """Take the failed shards up again; returns how many there were."""
        return remove_failures(self.path / "failures")

    def unfinished(self) -> bool:
        """Whether there is anything left to do: no plan yet, or a shard with neither receipt nor quarantine."""
        if self.plan is None:
            return True
        missing = self.missing()
        return bool(missing) and bool({shard.index for shard in missing} - self.quarantined())

    def remove_leftovers(self) -> None:
        """Of a complete run: remove what killed writers left aside, and the claims of dead workers."""
        self.require_complete()
        for folder, _, names in os.walk(self.path):
            for name in filter(is_leftover, names):
                (Path(folder) / name).unlink(missing_ok=True)
        for claim in self.claims().values():
            self.drop(claim)
        self._end_planning()

    # Logs

    def attempt(self, worker: str, log: str = "", device: str = "") -> WorkerLog:
        """The log of a worker, to append to. `log`: where its output goes; `device`: what it computes on."""
        return WorkerLog(self.path / "attempts", worker, log, device)

    def attempts_log(self, workers: str = "*") -> list[dict[str, Any]]:
        """All attempts in order of time, of the workers whose names match a pattern; see `WorkerLog`."""
        return read_attempts(self.path / "attempts", workers)

    def beat(self, worker: str, **state: Any) -> None:
        """Say that a worker is alive, with what it is doing. InputError if the folder belongs to another run."""
        self.require_own()
        write_heartbeat(self.path / "heartbeats", worker, state)

    def end_beat(self, worker: str) -> None:
        """Say that a worker ended in good order."""
        remove_heartbeat(self.path / "heartbeats", worker)

    def heartbeats(self) -> list[dict[str, Any]]:
        """The last heartbeats of the workers that have not ended; see `read_heartbeats`."""
        return read_heartbeats(self.path / "heartbeats")
