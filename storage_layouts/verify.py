"""Check every byte of a run folder against what was recorded when it was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from storage_layouts.errors import CorruptError, InputError
from storage_layouts.files import FileDigest, digest_file
from storage_layouts.runs import RunFolder


@dataclass(frozen=True)
class Problem:
    """A file that is not what it should be. ``file`` is relative to the run folder."""

    file: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.file}: found {self.found}, expected {self.expected}"


class Verification(NamedTuple):
    """Outcome of `verify`: the problems (empty: all is well) and how many files were looked at."""

    problems: list[Problem]
    files: int


def verify(path: Path | str) -> Verification:
    """Check a run folder of any stage: each file of the plan and of every receipt, and these themselves.

    Files that nothing names (logs, leftovers of a kill, the user's own) are not looked at.

    Raises:
        InputError: not a run folder at all.

    """
    path = Path(path)
    problems: list[Problem] = []
    if not path.is_dir() or not _looks_like_a_run(path):
        raise InputError(f"{path}: not a run folder")
    checked: dict[tuple[str, FileDigest], None] = {}
    counted = 1
    try:
        run = RunFolder.open(path)
    except InputError as error:
        return Verification([Problem("run.json", _found(error), "the file that created the run")], counted)
    counted += 1
    try:
        plan = run.plan
    except CorruptError as error:
        return Verification([Problem("plan.json", _found(error), "the plan as it was written")], counted)
    if plan is None:
        return Verification([Problem("plan.json", "no such file", "a plan; repeat the command")], counted)
    checked.update(dict.fromkeys(plan.files.items()))
    done = run.done()
    for shard in plan.shards():
        name = run.receipt_path(shard.index).relative_to(path).as_posix()
        if shard.index not in done:
            problems.append(Problem(name, "no such file", "a receipt; repeat the command"))
            continue
        counted += 1
        try:
            receipt = run.read_receipt(shard.index)
        except CorruptError as error:
            problems.append(Problem(name, _found(error), "the receipt as it was written"))
            continue
        if receipt is not None:
            checked.update(dict.fromkeys(receipt.files.items()))
    for name, digest in checked:
        found = _digest_or_reason(path / name)
        if found != digest:
            problems.append(Problem(name, str(found), str(digest)))
    return Verification(problems, counted + len(checked))


def _looks_like_a_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("run.json", "plan.json", "receipts"))


def _found(error: Exception) -> str:
    return str(error).partition(": ")[2].partition("; ")[0].removeprefix("found ")


def _digest_or_reason(path: Path) -> FileDigest | str:
    try:
        return digest_file(path)
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return f"unreadable file ({error.strerror})"
