"""Estimates for `--plan`: number of shards, time, bytes. Nothing is submitted, and only temporary files are written.

Shards and items are exact, since the run is planned. Time is extrapolated from finished work (an earlier run, or this
one), or from a probe: the same job with small shards, a few of which are computed here.
"""

from __future__ import annotations

import dataclasses
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from jobs.base import CopyingJob, CostlyJob, Job, PaidJob, ProbedJob, SharedPlanning, memory_of_worker, open_worker
from jobs.worker import settle_device
from launch.durations import duration
from launch.progress import StageProgress
from launch.run_status.worker_logs import read_worker_logs
from storage_layouts.counts import counted, plural, share, unit_of
from storage_layouts.differences import differences_table
from storage_layouts.embeddings import STAGE as STORE_STAGE
from storage_layouts.errors import IncompleteError, InputError
from storage_layouts.files import is_leftover
from storage_layouts.run_identity import IDENTITY
from storage_layouts.runs import RunFolder
from storage_layouts.shards import Plan, Shard
from storage_layouts.store_layout import StoreLayout

PROBE_SHARE = 8  # a shard of the probe is this many times smaller than one of the run,
FEWEST_ITEMS, MOST_ITEMS = 8, 512  # within these limits, so that the constant cost of a file is small
PROBE_SECONDS = 10.0  # no shard is begun after this time
PROBE_SHARDS = 8
RECEIPTS_READ = 50


@dataclass(frozen=True)
class PlanEstimate:
    """The work and cost of a job.

    Attributes:
        stage: "extract", ...
        out: the run folder.
        unit: of its items, as in "row".
        items: in all.
        items_per_shard: in one unit of work.
        shards: in all.
        missing: number of missing shards.
        worker_seconds: for the missing shards with one worker, without the loading of models; None if unknown.
        workers: at the same time.
        seconds: for the missing shards with these workers.
        bytes: of the data of the whole run; None if unknown.
        source: of the rate, in words.
        opening_seconds: of a worker before its first shard, as to load the model, without the start of Python and of
            the job; None if unknown.
        worker_bytes: memory of a worker on a CPU, weights included; None if it is small or unknown.
        fewer_workers: why there are fewer of them than cores, or "".
        extra_work: see `jobs.base.CostlyJob`.
        bills: of paid judges; the parts of `jobs.base.PaidJob.bill`.

    """

    stage: str
    out: Path
    unit: str
    items: int
    items_per_shard: int
    shards: int
    missing: int
    worker_seconds: float | None
    workers: int
    seconds: float | None
    bytes: int | None
    source: str
    opening_seconds: float | None = None
    worker_bytes: int | None = None
    fewer_workers: str = ""
    extra_work: Mapping[str, str] = field(default_factory=dict)
    bills: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Rate:
    source: str
    items_per_second: float | None = None  # of one worker
    bytes_per_item: float | None = None
    opening_seconds: float | None = None


def estimate(
    job: Job,
    workers: int,
    device: str,
    rate_of: Path | None,
    console: Console,
    index_memory: int | None = None,
) -> PlanEstimate:
    """Plan a job without starting it, and estimate its work and cost.

    Args:
        job: the stage and its settings.
        workers: at the same time.
        device: of a probe: auto, cpu, cuda, cuda:N or mps.
        rate_of: an earlier run of the same stage whose rate is used.
        console: for progress.
        index_memory: bytes of a store that a device may hold; None for what is free.

    Raises:
        IncompleteError: the plan needs an upstream run that does not exist yet.
        InputError: the job refuses its input; or `rate_of` is no run of this stage with finished shards.

    """
    earlier = None if rate_of is None else _measured(RunFolder.open(rate_of, job.stage), f"measured in {rate_of}")
    if rate_of is not None and earlier is None:
        raise InputError(f"--rate-of {rate_of}: no worker has finished a shard there, so it has no rate")
    _require_upstream(job)
    with tempfile.TemporaryDirectory(prefix="lens-plan-") as folder, StageProgress(console, job.stage) as progress:
        planned = _with(job, out=Path(folder) / "plan")
        run = planned.open_run()
        existing = _existing_run(job, run)
        if existing is not None and existing.plan is not None:
            run = existing
        elif isinstance(planned, SharedPlanning) and (planning := planned.planning(run)):
            run.settle()  # in whose folder the planning lies
            from launch.planning_estimate import estimate_of_planning

            return estimate_of_planning(job, planning, workers, rate_of, progress.say)
        else:
            planned.plan(run, progress.say)
        plan, missing = run.require_plan(), run.missing()
        work = _work(planned, run, missing)
        if existing and sum(_work(planned, run, plan.shards())) == plan.items:  # else its rate may be that of copying
            earlier = earlier or _measured(existing, "measured: this run")
        rate = earlier
        if isinstance(job, PaidJob) and (bills := job.bill(run)):
            rate = rate or _Rate("none: a probe would ask the judge; give --rate-of an earlier run")
        else:
            bills, rate = [], rate or _probed(planned, run, device, index_memory, Path(folder), progress.say)
        workers = max(1, min(workers, len(missing)))
        alone = together = None
        if rate.items_per_second:
            alone = sum(work) / rate.items_per_second
            # Whole shards: the slowest worker computes one more than the others.
            together = min(alone, -(-sum(map(bool, work)) // workers) * plan.items_per_shard / rate.items_per_second)
        return PlanEstimate(
            stage=job.stage,
            out=job.out,
            unit=unit_of(job.stage),
            items=plan.items,
            items_per_shard=plan.items_per_shard,
            shards=plan.shard_count,
            missing=len(missing),
            worker_seconds=alone,
            workers=workers,
            seconds=together,
            bytes=_bytes(job, run, plan, rate),
            source=rate.source,
            opening_seconds=rate.opening_seconds,
            worker_bytes=memory_of_worker(planned, index_memory),
            extra_work={**(planned.extra_work() if isinstance(planned, CostlyJob) else {}), **_copied(planned, run)},
            bills=tuple(bills),
        )


def estimate_table(found: PlanEstimate) -> Table:
    """Returns an estimate as a table of two columns."""
    table = Table(title=f"{found.stage} {found.out}: nothing was submitted", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row(plural(found.unit), f"{found.items:,}")
    done = found.shards - found.missing
    shards = f"{found.shards:,} of {counted(found.items_per_shard, found.unit)}"
    table.add_row("shards", shards + (f"; {done:,} are done, {found.missing:,} missing" if done else ""))
    if found.worker_seconds is not None and found.seconds is not None:
        request = f", or {duration(found.seconds)} by {found.workers:,}" if found.workers > 1 else ""
        table.add_row("time", f"about {duration(found.worker_seconds)} by one worker{request}; loading not counted")
    else:
        table.add_row("time", "unknown")
    if found.opening_seconds is not None:
        table.add_row("loading", f"{duration(found.opening_seconds)} for each worker, before its first shard")
    for what, words in found.extra_work.items():
        table.add_row(what, words)
    if found.worker_bytes is not None:
        table.add_row("memory", f"about {decimal(found.worker_bytes)} for each worker on a CPU, weights included")
    if found.fewer_workers:
        table.add_row("workers", found.fewer_workers)
    table.add_row("bytes", "unknown" if found.bytes is None else f"{decimal(found.bytes)} ({found.bytes:,})")
    table.add_row("rate", found.source)
    for bill in found.bills:
        kept = f", {bill.answered:,} of them in the ledger" if bill.answered else ""
        tokens = f"{bill.input_tokens:,} in (images {bill.image_tokens:,}), {bill.output_tokens:,} out"
        table.add_row(escape(bill.judge), f"{bill.calls:,} calls{kept}; about {tokens} tokens")
        table.add_row("money", f"about ${bill.dollars:,.2f}, at most ${bill.worst:,.2f}")
        table.add_row("prices", escape(bill.source))
    return table


def _with(job: Job, **fields: Any) -> Job:
    """Returns a copy of the job with other values of some fields; its tokenizer is not loaded again."""
    changed = cast(Job, dataclasses.replace(cast(Any, job), **fields))
    if "_checkpoint" in vars(job):
        vars(changed)["_checkpoint"] = vars(job)["_checkpoint"]
    return changed


def _work(job: Job, run: RunFolder, shards: Sequence[Shard]) -> list[int]:
    """Returns the number of items of each shard that take time."""
    return [job.computed(run, shard) if isinstance(job, CopyingJob) else shard.items for shard in shards]


def _copied(job: Job, run: RunFolder) -> dict[str, str]:
    """Returns how many items are copied, in words, or {}."""
    plan = run.require_plan()
    copied = plan.items - sum(_work(job, run, plan.shards()))
    return {"copied": f"{share(copied, plan.items, unit_of(job.stage))}, not computed"} if copied else {}


def _require_upstream(job: Job) -> None:
    """Raises IncompleteError if the plan needs an upstream run that does not exist or is not complete yet."""
    for path in job.upstream:
        if not (path / "run.json").exists():
            raise IncompleteError(f"nothing can be planned before {path} is there; repeat --plan then")
        run = RunFolder.open(path)
        if run.plan is None or (job.plans_on == "complete" and not run.is_complete()):
            raise IncompleteError(f"nothing can be planned before {path} is {job.plans_on}; repeat --plan then")


def _existing_run(job: Job, planned: RunFolder) -> RunFolder | None:
    """Returns the run in the job's folder, if any. Raises InputError if the job cannot use that folder."""
    out = job.out
    if not (out / "run.json").exists():
        planning = (out / "planning.json").exists()
        if out.is_dir() and not planning and any(not is_leftover(path.name) for path in out.iterdir()):
            raise InputError(f"{out}: the folder is not empty and has no run.json; choose a new or empty folder")
        return None
    existing = RunFolder.open(out)
    if existing.run_id == planned.run_id:
        return existing
    found, expected = ({key: getattr(run, key) for key in IDENTITY} for run in (existing, planned))
    raise InputError(
        f"{out}: this folder belongs to another run; choose another folder or the same settings\n"
        + differences_table(found, expected)
    )


def _measured(run: RunFolder, source: str) -> _Rate | None:
    """Returns the mean rate of a run's workers; None without finished shards."""
    plan = run.plan
    worker_logs = read_worker_logs(run, plan)
    rate = worker_logs.worker_rate(worker_logs.workers)
    if plan is None or rate is None:
        return None
    done = sorted(run.done())
    receipts = [run.read_receipt(shard) for shard in done[:: 1 + len(done) // RECEIPTS_READ]]
    found = [receipt for receipt in receipts if receipt is not None]
    size = sum(digest.bytes for receipt in found for digest in receipt.files.values())
    items = sum(receipt.items for receipt in found)
    words = f"{source}, {counted(len(done), 'shard')} by {counted(len(worker_logs.workers), 'worker')}"
    return _Rate(words, rate, size / items if items else None)


def _probed(
    job: Job, run: RunFolder, device: str, index_memory: int | None, folder: Path, progress: Callable[[str], None]
) -> _Rate:
    """Measure the rate on this machine, or return a rate that says why this is impossible."""
    if not all(RunFolder.open(path).is_complete() for path in job.upstream):
        paths = ", ".join(map(str, job.upstream))
        return _Rate(f"none: a probe needs all of {paths}, which is not complete yet; give --rate-of an earlier run")
    if not run.require_plan().items:
        return _Rate("none: there is nothing to do")
    if not job.needs_device:
        return _probe(job, "cpu", None, folder / "probe", progress)
    import torch

    threads = torch.get_num_threads()
    try:
        device = settle_device(device)  # on a CPU it sets one thread, as in a worker
    except InputError as refusal:
        return _Rate(f"none: {refusal}; or give --rate-of an earlier run")
    try:
        return _probe(job, device, index_memory, folder / "probe", progress)
    finally:
        torch.set_num_threads(threads)


def _probe(job: Job, device: str, index_memory: int | None, out: Path, progress: Callable[[str], None]) -> _Rate:
    """Compute a few small shards. The first one warms up and is not counted."""
    if isinstance(job, ProbedJob):
        small = job.for_probe(out)
    else:
        usual = getattr(job, job.shard_size)
        size = min(usual, MOST_ITEMS, max(FEWEST_ITEMS, usual // PROBE_SHARE))
        small = _with(job, out=out, **{job.shard_size: size})
    progress("planning a probe")
    run = small.open_run()
    small.plan(run, progress)
    every = run.require_plan().shards()
    work = dict(zip(every, _work(small, run, every), strict=True))
    shards = sorted(every, key=lambda shard: -work[shard])[:PROBE_SHARDS]
    progress(f"probing on {device}")
    began = time.monotonic()
    worker = open_worker(small, run, device, index_memory)
    opening = time.monotonic() - began
    worker.run(shards[0])
    items = size_written = count = 0
    began = time.monotonic()
    for shard in shards[1:] or shards:
        receipt = worker.run(shard)
        items, count = items + work[shard], count + 1
        size_written += sum(digest.bytes for digest in receipt.files.values())
        seconds = time.monotonic() - began
        if seconds > PROBE_SECONDS:
            break
    shards_of = f"{counted(count, 'shard')} of {counted(run.require_plan().items_per_shard, unit_of(job.stage))}"
    source = f"probed on {device} of {socket.gethostname()}, {shards_of}"
    return _Rate(source, items / seconds, size_written / items, opening)


def _bytes(job: Job, run: RunFolder, plan: Plan, rate: _Rate) -> int | None:
    """Returns the bytes of the whole run; for a store, which is not compressed, exact except for some small files."""
    planned = sum(digest.bytes for digest in plan.files.values())
    if run.stage == STORE_STAGE:
        layout = StoreLayout.from_metadata(str(run.path), run.read_plan_file("zarr.json"))
        sizes = Counter(shard.items for shard in plan.shards())
        return planned + sum(count * layout.shard_bytes(rows) for rows, count in sizes.items())
    if isinstance(job, ProbedJob):
        return planned + job.data_bytes()
    return None if rate.bytes_per_item is None else planned + round(rate.bytes_per_item * plan.items)
