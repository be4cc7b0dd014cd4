"""The estimate of `--plan` for a planning that is work for several workers: pieces, and time from a probe of some."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

from rich.filesize import decimal

from jobs.base import Job, ModelJob
from jobs.planning_job import PlanningJob, pieces_of
from launch.durations import duration
from launch.estimate import PROBE_SECONDS, PROBE_SHARDS, PlanEstimate
from lenscore.contexts.corpus_pieces import piece_bytes_of
from storage_layouts.counts import counted, unit_of

PROBE_BYTES = 1 << 20
"""Bytes of text in a piece of a probe, about."""


def estimate_of_planning(
    job: Job, planning: Job, workers: int, rate_of: Path | None, progress: Callable[[str], None]
) -> PlanEstimate:
    """Estimate the planning of a job, whose run folder is there; what follows it is known when it is done."""
    assert isinstance(planning, PlanningJob)
    run = planning.open_run()
    planning.plan(run, progress)
    plan, sizes = run.require_plan(), [piece_bytes_of(piece, planning.corpus_files) for piece in pieces_of(run)]
    rate, source = _probe(planning, progress)
    alone = None if rate is None else sum(sizes) / rate
    workers = max(1, min(workers, len(sizes)))
    ignored = {} if rate_of is None else {"--rate-of": "not used: its rate is that of what follows the planning"}
    return PlanEstimate(
        stage=planning.stage,
        out=job.out,
        unit=unit_of(planning.stage),
        items=plan.items,
        items_per_shard=1,
        shards=plan.shard_count,
        missing=plan.shard_count,
        worker_seconds=alone,
        workers=workers,
        seconds=None if rate is None or alone is None else max(alone / workers, max(sizes) / rate),
        bytes=None,
        source=source,
        worker_bytes=planning.worker_bytes() if isinstance(planning, ModelJob) else None,
        extra_work={
            "corpus": f"{decimal(sum(sizes))} of text, about, in {counted(len(sizes), 'piece')}, the largest of "
            f"{decimal(max(sizes))}",
            job.stage: "its shards, time and bytes are known when it is planned; then repeat --plan",
            **ignored,
        },
    )


def _probe(planning: PlanningJob, progress: Callable[[str], None]) -> tuple[float | None, str]:
    """Bytes of text that a worker samples a second, and where that was measured. The first piece warms up."""
    small = planning.smaller("probe", PROBE_BYTES)
    run = small.open_run()
    small.plan(run, progress)
    pieces = [piece_bytes_of(piece, small.corpus_files) for piece in pieces_of(run)]
    chosen = sorted((place for place, size in enumerate(pieces) if size <= 4 * PROBE_BYTES), key=pieces.__getitem__)
    chosen = chosen[::-1][:PROBE_SHARDS]
    if not chosen:
        return None, "none: a probe reads pieces of 4 MB at most, and each file of the corpus is one larger piece"
    progress("probing")
    worker = small.open_worker(run, "cpu")
    worker.run(run.require_plan().shard(chosen[0]))
    began, size, count = time.monotonic(), 0, 0
    for place in chosen[1:] or chosen:
        worker.run(run.require_plan().shard(place))
        size, count = size + pieces[place], count + 1
        if time.monotonic() - began > PROBE_SECONDS:
            break
    seconds = time.monotonic() - began
    words = f"probed on {socket.gethostname()}, {decimal(size)} in {duration(seconds)}; merges and the reading of kept "
    return size / seconds, words + "sentences not counted"
