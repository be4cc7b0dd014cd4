"""Check every byte of a run folder against what was recorded when it was written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from storage_layouts.errors import CorruptError, IncompleteError, InputError, MachineError
from storage_layouts.files import FileDigest, check_file, parse_json, read_expected
from storage_layouts.machine_errors import reading
from storage_layouts.other_files import instead_of_run
from storage_layouts.run_identity import PLAN_REMEDY, RUN_REMEDY, check_run, plan_id, receipt_remedy
from storage_layouts.runs import RunFolder
from storage_layouts.shards import plan_from_json, receipt_from_json, shard_name
from storage_layouts.verify_money import Checked, check_ledger, check_money, is_ledger
from storage_layouts.zarr_metadata import read_metadata

T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """A file that is not what it should be.

    Attributes:
        file: its path relative to the run folder, with "/" as separator.
        found: what is there.
        expected: what was written.
        remedy: what to do.

    """

    file: str
    found: str
    expected: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.file}: found {self.found}, expected {self.expected}; {self.remedy}"


class Verification(NamedTuple):
    """Outcome of `verify`; all is well if there is neither a problem nor a file that could not be read.

    Attributes:
        problems: what is damaged.
        files: how many files were looked at.
        unread: files of which nothing is known, since the machine could not read them.

    """

    problems: list[Problem]
    files: int
    unread: list[MachineError]


def verify(path: Path | str, progress: Callable[[int], None] = lambda files: None) -> Verification:
    """Check a run folder of any stage: run.json, plan.json, every receipt, and every file that they name.

    Of a judge run also ledger, budget and terms. A missing receipt is a problem too. Files that nothing names (logs,
    leftovers of a kill, the user's own) are not looked at. A ledger's folder, which several runs may share, can be
    checked alone. ``progress`` takes how many files are checked, now and then.

    Raises:
        InputError: not a run folder at all.
        IncompleteError: a run whose planning has not ended.
        CorruptError: its planning.json is damaged.
        MachineError: the machine cannot even list it.

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


def _run_of(file: Path, content: Any) -> dict[str, Any]:
    check_run(file, content)
    return dict(content)


class _Check:
    def __init__(self, path: Path, progress: Callable[[int], None]) -> None:
        self.path, self.progress = path, progress
        self.problems: list[Problem] = []
        self.unread: list[MachineError] = []
        self.seen: set[tuple[str, Any]] = set()

    def run(self) -> Verification:
        run, _ = self._json("run.json", RUN_REMEDY, {}, _run_of)
        plan, identity = self._json("plan.json", PLAN_REMEDY, {"run_id": run and run["run_id"]}, plan_from_json)
        if plan:
            self._files(plan.files, PLAN_REMEDY)
            names = [f"receipts/{shard_name(index)}.json" for index in range(plan.shard_count)]
        else:  # what can be checked without it
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
        """Take in what was found of files that no receipt names, and conclude."""
        for file, problem in checked:
            name = Path(file).relative_to(self.path).as_posix() if Path(file).is_relative_to(self.path) else file
            self.seen.add((name, None))
            if isinstance(problem, MachineError):
                self.unread.append(problem)
            elif problem is not None:
                self.problems.append(Problem(name, problem.found, problem.expected, problem.remedy))
        return Verification(self.problems, len(self.seen), self.unread)

    def _json(
        self, name: str, remedy: str, expected: dict[str, Any], typed: Callable[[Path, Any], T]
    ) -> tuple[T | None, str]:
        """What a JSON file says, and the id of its bytes; None if it is damaged or of another run."""
        self.seen.add((name, None))
        file = self.path / name
        try:
            data = read_expected(file, "a file", "repeat the command that makes this run")
            content = parse_json(file, data, remedy)
            found_there = typed(file, content)
            for key, value in expected.items():
                if value is not None and content[key] != value:
                    raise CorruptError(file, f"{key} {content[key]}", value, remedy)
        except CorruptError as error:
            self.problems.append(Problem(name, error.found, error.expected, error.remedy))
            return None, ""
        except MachineError as error:
            self.unread.append(error)
            return None, ""
        return found_there, plan_id(data)

    def _files(self, files: dict[str, FileDigest], remedy: str) -> None:
        for name, digest in files.items():
            if (name, digest) in self.seen:  # a file that many receipts name
                continue
            self.seen.add((name, digest))
            self.progress(len(self.seen))
            try:
                check = read_metadata if name.endswith("zarr.json") else check_file
                check(self.path / name, digest, remedy)
            except CorruptError as error:
                self.problems.append(Problem(name, error.found, error.expected, remedy))
            except MachineError as error:
                self.unread.append(error)
