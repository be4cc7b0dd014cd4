"""Single commands that were queued as separate jobs, such as a pipeline's report, and their states."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launch.clusters.cluster import CallStatus
from launch.clusters.logs import last_words, read_log
from launch.clusters.slurm_ends import read_result, state_of
from launch.clusters.slurm_queue import SCHEDULER, ask, queue_question, read_queue
from storage_layouts.errors import CorruptError, InputError
from storage_layouts.files import read_json, write_json

CALL = "call.json"
"""Name and job id of a call, in the folder of a submission."""
PATIENCE_SECONDS = 5.0


def record_call(folder: Path, name: str, job: str) -> None:
    """Record in the folder of a submission that this job is a call."""
    write_json(folder / CALL, {"name": name, "job": job})


def calls_in(folder: Path) -> Iterator[CallStatus]:
    """Yields the calls that were queued from a folder, for each name only the latest; each needs a query to SLURM."""
    newest: dict[str, tuple[float, Path, dict[str, Any]]] = {}
    for file in folder.glob(f"submissions/*/{CALL}"):
        with contextlib.suppress(CorruptError, FileNotFoundError):
            call, queued = read_json(file), file.stat().st_mtime
            if queued >= newest.get(call["name"], (0.0,))[0]:
                newest[call["name"]] = queued, file.parent, call
    for name in sorted(newest):
        _, submission, call = newest[name]
        yield _status(folder, submission, name, call["job"])


def _status(folder: Path, submission: Path, name: str, job: str) -> CallStatus:
    log = submission / f"{job}_0_log.err"

    def status(state: Any, reason: str = "", error: str = "") -> CallStatus:
        return CallStatus(name, folder, SCHEDULER, job, state, reason, error, str(log))

    if read_result(submission / f"{job}_0_result.pkl")[0] == "success":
        return status("complete")
    try:
        entries = read_queue(ask(queue_question(name), PATIENCE_SECONDS))
    except InputError as silence:
        return status("unknown", error=f"SLURM's controller does not answer ({silence})")
    entry = next((entry for entry in entries if entry.job == job), None)
    if entry is None or entry.ended:
        text = read_log(log)
        return status("stopped", error=last_words(text) if text or entry is None else state_of(entry))
    return status("running" if entry.state == "RUNNING" else "waiting", "" if entry.reason == "None" else entry.reason)
