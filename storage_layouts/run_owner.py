"""The run that a folder belongs to: planning.json while commands plan for it, then run.json, which is never replaced.

Several commands may plan for one folder. The first one that publishes run.json owns it; the others have written nothing
but planning.json into it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage_layouts.differences import differences_table
from storage_layouts.errors import CorruptError, InputError
from storage_layouts.files import is_leftover, json_bytes, make_folder, parse_json, read_json, write_atomic
from storage_layouts.machine_errors import reading, writing
from storage_layouts.other_files import instead_of_run
from storage_layouts.run_identity import IDENTITY, RUN_REMEDY, check_run
from storage_layouts.shards import listed_shards


def begin_planning(path: Path, content: dict[str, Any]) -> bool:
    """Create the folder of a run, and write planning.json with the content of its run.json.

    Nothing is written if the folder has a run.json, or the plan of this run; the result is then True. InputError if the
    folder holds other files, or cannot be written.
    """
    make_folder(path)
    others = [entry.name for entry in os.scandir(path) if not is_leftover(entry.name)]
    # Tested after the listing, and in this order: a command writes planning.json before all other files, and removes
    # it after run.json was published.
    planning, settled = ((path / name).exists() for name in ("planning.json", "run.json"))
    if settled or _has_plan_of(path, content["run_id"]):
        return True
    if others and not planning:
        raise InputError(
            f"{path}: the folder is not empty and has no run.json (it holds {min(others)!r}); "
            "choose a new or empty folder"
        )
    write_atomic(path / "planning.json", json_bytes(content))
    return False


def end_planning(path: Path) -> None:
    """Remove planning.json, which has no meaning beside run.json."""
    file = path / "planning.json"
    if file.exists():  # a command may be repeated in a folder that is read-only
        with writing(file):
            file.unlink(missing_ok=True)


def withdraw(path: Path, run_id: str, made: Sequence[Path]) -> None:
    """Remove planning.json of a run, and the folders that were made for it, the deepest first.

    Nothing is removed if the folder holds more, or if another command may be planning in it.
    """
    with contextlib.suppress(InputError, OSError):
        others = {entry.name for entry in os.scandir(path)} - {"planning.json", "heartbeats"}
        if not others and read_json(path / "planning.json").get("run_id") == run_id:
            if (path / "heartbeats").exists():
                (path / "heartbeats").rmdir()  # raises OSError if there is one
            (path / "planning.json").unlink()
            for folder in made:
                folder.rmdir()


def require_owner(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The content of run.json, or ``content`` if there is none yet.

    InputError if the folder belongs to another run than that of ``content``; a table shows what differs.
    """
    if not (path / "run.json").exists():
        return content
    there = read_run(path)
    if there["run_id"] != content["run_id"]:
        found, asked = ({key: run[key] for key in IDENTITY} for run in (there, content))
        unplanned = not (path / "plan.json").exists() and not listed_shards(path / "receipts")
        remedy = "; nothing was computed in it yet, so delete it if no command works on it" if unplanned else ""
        raise InputError(
            f"{path}: this folder belongs to another run; choose another folder or the same settings{remedy}\n"
            + differences_table(found, asked)
        )
    return there


def read_run(path: Path) -> dict[str, Any]:
    """The content of run.json, or of planning.json while the run is being planned.

    InputError if it is not a run folder, or of a newer format; CorruptError if the file is damaged.
    """
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
    return check_run(file, content or read_json(file, RUN_REMEDY))


def _has_plan_of(path: Path, run_id: str) -> bool:
    """Whether a folder holds the plan of a run, even if its run.json is missing."""
    try:
        return bool(read_json(path / "plan.json").get("run_id") == run_id)
    except CorruptError:
        return False
