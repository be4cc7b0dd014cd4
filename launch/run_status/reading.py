"""Reads the status of a run from its folder and from the queue to which it was submitted. Nothing is written.

A worker is alive if its heartbeat is recent. The age of a heartbeat is the difference between the file system's clock
and that of this machine. If the clock of this machine is behind, the newest heartbeat replaces it; if it is ahead by up
to `SKEW_SECONDS`, that is tolerated. If it is further ahead, living workers look stale here, and `--after` may give up
too early; other workers do not take over their shards because of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

from jobs.heartbeat import STALE_AFTER_SECONDS, under_way
from launch.clusters.cluster import QueueView
from launch.clusters.logs import End, last_words, read_log
from launch.run_status.snapshot import DeadWorker, FailedShard, LastError, RunStatus, State, WorkerSeen
from launch.run_status.worker_logs import WorkerLogs, read_worker_logs
from storage_layouts.errors import CorruptError
from storage_layouts.failures import MAX_TRIES, read_failures
from storage_layouts.fields import check_fields
from storage_layouts.runs import PLANNING, RunFolder
from storage_layouts.shards import PLAN_FIELDS, PLAN_REMEDY, Plan

T = TypeVar("T")

SKEW_SECONDS = 10.0
RECENT_SHARDS = 10  # of each living worker, for the current rate
RECEIPTS_READ = 200  # at most, for shards whose bytes no worker log has


def status_of(path: Path | str, now: float | None = None) -> RunStatus:
    """Read a run folder. ``now``: Unix seconds, by default this machine's clock.

    Raises InputError if the folder holds no run, or if its run.json or plan.json is damaged.
    """
    run = RunFolder.open(path)
    plan, plan_bytes = _read_plan(run)
    # Before the heartbeats: a worker beats before it claims, so one that has claimed and does not beat is dead.
    claimed = {shard: claim.worker() for shard, claim in run.claims().items()}
    beats = run.heartbeats()
    now = max([time.time() if now is None else now, *(beat["modified"] for beat in beats)])
    workers = tuple(_worker(beat, now) for beat in beats)
    worker_logs = read_worker_logs(run, plan, {worker.worker: worker.device for worker in workers})
    failures = read_failures(run.path / "failures")
    # Receipts last: shards that are finished during the reading are done, and not stale or failed.
    sizes = plan or Plan(0, 1)
    shards = sizes.shard_count
    done = {shard for shard in run.done() if shard < shards}
    alive = {worker.worker for worker in workers if worker.alive}
    taken_by = [*claimed.items(), *((worker.shard, worker.worker) for worker in workers if worker.shard is not None)]
    running = {shard for shard, worker in taken_by if worker in alive} - done
    failed = tuple(_failed(failures[shard]) for shard in sorted(failures) if shard not in done | running)
    taken = done | running | {failure.shard for failure in failed}
    stale = {shard for shard, worker in taken_by if worker and worker not in alive and shard < shards} - taken
    view = _view(run, workers)
    dead = _dead(beats, workers, view.ends)
    left = shards - len(done) - sum(failure.quarantined for failure in failed)
    at_work = under_way(beats, done)
    rate, seconds_left = _rate(worker_logs, workers, plan, left)
    return RunStatus(
        path=run.path,
        stage=run.stage,
        run_id=run.run_id,
        state=_state_of_planning(run) or _state(plan, shards - len(done), workers, view),
        planned=plan is not None,
        items=sizes.items,
        items_done=sizes.items_of(done),
        items_under_way=at_work.items,
        doing=at_work.doing,
        shards=shards,
        done=len(done),
        running=tuple(sorted(running)),
        stale=tuple(sorted(stale)),
        failed=failed,
        pending=shards - len(taken | stale),
        items_per_second=rate,
        seconds_left=seconds_left,
        bytes=plan_bytes + _shard_bytes(run, worker_logs, done),
        seconds_spent=_seconds_spent(worker_logs, workers, now),
        workers=workers,
        scheduler=view.scheduler,
        queue=view.queue,
        silence=view.silence,
        dead=tuple(DeadWorker(end.worker, end.error, end.log, end.time) for end in dead),
        last_error=_last_error([*map(_of_worker, dead[-1:]), *failures.values(), worker_logs.last_error], done),
        changed=max([worker_logs.changed, _last_change(run.path), *(beat["modified"] for beat in beats)]),
        time=now,
    )


def _read_plan(run: RunFolder) -> tuple[Plan | None, int]:
    """Returns the plan without the digests of its files, and the sum of their bytes.

    Does not verify its checksum, which takes seconds over the digests of 100,000 files.
    """
    file = run.path / "plan.json"
    try:
        content = json.loads(file.read_bytes())
        check_fields(file, content, PLAN_FIELDS, PLAN_REMEDY)
        size = sum(digest["bytes"] for digest in content["files"].values())
        return Plan(content["items"], content["items_per_shard"]), size
    except FileNotFoundError:
        return None, 0
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(file, repr(error), "the plan of the run", "delete it and repeat the command") from None


def _of_worker(end: End) -> dict[str, Any]:
    return {"message": end.error, "worker": end.worker, "time": end.time, "log": end.log, "permanent": end.refused}


def _state_of_planning(run: RunFolder) -> State | None:
    """Returns the state of a run without a plan by that of the planning that workers share; None without one."""
    folder = run.path / PLANNING
    if run.plan is not None or not (folder / "run.json").exists():
        return None
    state = status_of(folder).state
    return "planning" if state in ("complete", "running", "planning") else state


def _state(plan: Plan | None, missing: int, workers: Iterable[WorkerSeen], view: QueueView) -> State:
    if plan is not None and not missing:
        return "complete"
    alive = {worker.role for worker in workers if worker.alive}
    if alive and plan is None:
        return "planning"
    if "worker" in alive:
        return "running"
    if alive or view.queue:
        return "waiting"
    return "unknown" if view.unknown else "stopped"


def _worker(beat: dict[str, Any], now: float) -> WorkerSeen:
    silent = max(0.0, now - beat["modified"])
    patience = float(beat.get("stale_after") or STALE_AFTER_SECONDS) + SKEW_SECONDS
    return _filled(
        WorkerSeen,
        beat,
        role="launcher" if beat.get("role") == "launcher" else "worker",
        alive=not beat.get("dead") and silent <= patience,
        silent_seconds=round(silent, 1),
    )


def _failed(failure: dict[str, Any]) -> FailedShard:
    error = _last_line(failure.get("traceback", ""))
    return _filled(FailedShard, failure, error=error, quarantined=failure["tries"] >= MAX_TRIES)


def _last_error(found: Iterable[dict[str, Any] | None], done: set[int]) -> LastError | None:
    last = max(filter(None, found), key=lambda line: line.get("time", 0.0), default=None)
    if last is None:
        return None
    return _filled(
        LastError,
        last,
        error=_last_line(last.get("traceback") or last.get("message") or ""),
        mended=last.get("shard") in done,
        permanent=bool(last.get("permanent")),
    )


def _filled(kind: type[T], record: dict[str, Any], **values: Any) -> T:
    """Returns a dataclass with these values and those of a record; other fields keep their defaults."""
    names = {field.name for field in dataclasses.fields(cast(Any, kind))}
    return kind(**{name: value for name, value in record.items() if name in names} | values)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _rate(
    worker_logs: WorkerLogs, workers: Iterable[WorkerSeen], plan: Plan | None, left: int
) -> tuple[float | None, float | None]:
    """Returns items per second, and the seconds left; the latter only with living workers."""
    alive = [worker.worker for worker in workers if worker.alive and worker.role == "worker"]
    if not alive or plan is None or not left:
        return worker_logs.overall_rate(), None
    of_one = worker_logs.worker_rate(alive, RECENT_SHARDS) or worker_logs.worker_rate(worker_logs.workers)
    if of_one is None:
        return None, None
    at_work = min(len(alive), left)
    # Whole shards: idle workers do not make the last one faster.
    return of_one * at_work, -(-left // at_work) * plan.items_per_shard / of_one


def _shard_bytes(run: RunFolder, worker_logs: WorkerLogs, done: set[int]) -> int:
    """Returns the bytes of the done shards, mostly from the worker logs, since reading many receipts takes long."""
    sizes = {attempt.shard: attempt.bytes for attempt in worker_logs.finished if attempt.bytes is not None}
    # Not in the logs: a worker was killed between receipt and log, or an old version wrote them.
    for shard in sorted(done - sizes.keys())[:RECEIPTS_READ]:
        with contextlib.suppress(CorruptError):
            receipt = run.read_receipt(shard)
            if receipt is not None:
                sizes[shard] = sum(digest.bytes for digest in receipt.files.values())
    known = done & sizes.keys()
    total = sum(sizes[shard] or 0 for shard in known)
    # The others are assumed to be like these.
    return total + (len(done) - len(known)) * total // max(1, len(known))


def _seconds_spent(worker_logs: WorkerLogs, workers: Iterable[WorkerSeen], now: float) -> dict[str, float]:
    spent = {"gpu": 0.0, "cpu": 0.0, "unknown": 0.0}
    for device, seconds in worker_logs.spent.items():
        spent[_kind(device)] += seconds
    for worker in workers:
        begun = worker_logs.begun.get(worker.worker)
        if begun is not None and worker.alive and begun[0] == worker.shard:
            spent[_kind(worker.device)] += max(0.0, now - begun[1])
    return {kind: round(seconds, 3) for kind, seconds in spent.items()}


def _kind(device: str) -> str:
    return "unknown" if not device else "cpu" if device == "cpu" else "gpu"


def _last_change(path: Path) -> float:
    """Returns the time of the last change of an entry of the run folder."""
    with os.scandir(path) as entries:
        times = [path.stat().st_mtime]
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                times.append(entry.stat().st_mtime)
        return max(times)


def _view(run: RunFolder, workers: Iterable[WorkerSeen]) -> QueueView:
    """Returns the jobs of this run, if it was ever submitted."""
    if not (run.path / "submissions").is_dir():
        return QueueView("")
    from launch.clusters.choice import CLUSTERS  # takes a third of the time of `lens status`

    living = {worker.log for worker in workers if worker.alive}
    views = (cluster.view(run, living) for cluster in CLUSTERS)
    return next((view for view in views if view is not None), QueueView(""))


def _dead(beats: Iterable[dict[str, Any]], workers: Iterable[WorkerSeen], ends: Iterable[End]) -> tuple[End, ...]:
    """Returns the failed workers: those in the scheduler's files, and those whose heartbeat stopped, by their logs."""
    found = list(ends)
    for beat, worker in zip(beats, workers, strict=True):
        if worker.role == "worker" and worker.log and not worker.alive and worker.log not in {end.log for end in found}:
            found.append(End(worker.worker, last_words(read_log(worker.log)), worker.log, beat["modified"]))
    return tuple(sorted(found, key=lambda end: end.time))
