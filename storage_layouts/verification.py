"""Check every byte of a run folder against the digests recorded when it was written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from storage_layouts.errors import CorruptError, IncompleteError, InputError, MachineError
from storage_layouts.files import FileDigest, check_file, parse_json, read_expected
from storage_layouts.machine_errors import reading
from storage_layouts.other_files import instead_of_run
from storage_layouts.run_identity import RUN_REMEDY, check_run, plan_id, receipt_remedy
from storage_layouts.runs import RunFolder
from storage_layouts.shards import PLAN_REMEDY, plan_from_json, receipt_from_json, shard_name
from storage_layouts.verify_money import Checked, check_ledger, check_money, is_ledger
from storage_layouts.zarr_metadata import read_metadata

T = TypeVar("T")


class Verification(NamedTuple):
    """Result of `verify`.

    Attributes:
        problems: the damaged files, by their paths relative to the run folder with "/" as separator.
        files: number of files checked.
        unread: files that the machine could not read.

    """

    problems: list[CorruptError]
    files: int
    unread: list[MachineError]


def verify(path: Path | str, progress: Callable[[int], None] = lambda files: None) -> Verification:
    """Check a run folder of any stage: run.json, plan.json, every receipt, and every file that they name.

    For a judge run also ledger, budget and terms. A missing receipt is a problem too. Other files (logs, leftovers of a
    killed process, the user's files) are not checked. The folder of a ledger, which several runs may share, can be
    checked alone. ``progress`` is called with the number of checked files.

    Raises:
        InputError: not a run folder.
        IncompleteError: a run whose planning has not ended.
        CorruptError: its planning.json is damaged.
        MachineError: the machine cannot list it.

    """
    path = Path(path)
    with reading(path):
        if is_ledger(path) and not (path / "run.json").exists():
            return _Check(path, progress).money(check_ledger(path))
        if not any((path / name).exists() for name in ("run.json", "plan.json", "receipts")):
            if (path / "planning.json").exists():
                begun = RunFolder.open(path).created
                by = f" (begun {begun['time']} on {begun['host']})" if begun else ""
                raise IncompleteError(
                    f"{path}: its planning has not ended{by}, so there is nothing to check yet; "
                    "if no command is at work on it any more, repeat the command that makes this run"
                )
            raise InputError(f"{path}: not a run folder ({instead_of_run(path)})")
        return _Check(path, progress).run()


class _Check:
    def __init__(self, path: Path, progress: Callable[[int], None]) -> None:
        self.path, self.progress = path, progress
        self.problems: list[CorruptError] = []
        self.unread: list[MachineError] = []
        self.seen: set[tuple[str, Any]] = set()

    def run(self) -> Verification:
        run, _ = self._json("run.json", RUN_REMEDY, {}, check_run)
        plan, identity = self._json("plan.json", PLAN_REMEDY, {"run_id": run and run["run_id"]}, plan_from_json)
        if plan:
            self._files(plan.files, PLAN_REMEDY)
            names = [f"receipts/{shard_name(index)}.json" for index in range(plan.shard_count)]
        else:  # the receipts can be checked without it
            names = sorted(f"receipts/{file.name}" for file in self.path.glob("receipts/[!.]*.json"))
        for name in names:
            stem = Path(name).stem
            remedy = receipt_remedy(int(stem)) if stem.isdecimal() else "delete it"
            expected = {"run_id": run and run["run_id"], "plan_id": plan and identity}
            receipt, _ = self._json(name, remedy, expected, partial(receipt_from_json, remedy=remedy))
            if receipt:
                self._files(receipt.files, remedy)
        return self.money(check_money(self.path))

    def money(self, checked: Iterable[Checked]) -> Verification:
        """Add the results for the files that no receipt names, and return the whole result."""
        for file, problem in checked:
            name = Path(file).relative_to(self.path).as_posix() if Path(file).is_relative_to(self.path) else file
            self.seen.add((name, None))
            with self._recording(name):
                if problem is not None:
                    raise problem
        return Verification(self.problems, len(self.seen), self.unread)

    @contextlib.contextmanager
    def _recording(self, name: str) -> Iterator[None]:
        """Record the error of a file instead of raising it."""
        try:
            yield
        except CorruptError as error:
            self.problems.append(CorruptError(name, error.found, error.expected, error.remedy))
        except MachineError as error:
            self.unread.append(error)

    def _json(
        self, name: str, remedy: str, expected: dict[str, Any], typed: Callable[[Path, Any], T]
    ) -> tuple[T | None, str]:
        """The content of a JSON file, and the id of its bytes; None if it is damaged or of another run."""
        self.seen.add((name, None))
        file = self.path / name
        with self._recording(name):
            data = read_expected(file, "a file", "repeat the command that makes this run")
            content = parse_json(file, data, remedy)
            found = typed(file, content)
            for key, value in expected.items():
                if value is not None and content[key] != value:
                    raise CorruptError(file, f"{key} {content[key]}", value, remedy)
            return found, plan_id(data)
        return None, ""

    def _files(self, files: dict[str, FileDigest], remedy: str) -> None:
        for name, digest in files.items():
            if (name, digest) in self.seen:  # a file in many receipts
                continue
            self.seen.add((name, digest))
            self.progress(len(self.seen))
            with self._recording(name):
                check = read_metadata if name.endswith("zarr.json") else check_file
                check(self.path / name, digest, remedy)
