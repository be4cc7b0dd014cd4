"""What `--plan` prints: how many shards, how long, how many bytes. Nothing is submitted, and nothing written but to a
temporary folder.

Shards and items are exact, since the run is really planned. Time comes from finished work (an earlier run, or this
one), or from a probe: the same job with small shards, of which a few are computed here.
"""

from __future__ import annotations

import dataclasses
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from jobs.base import Job, PaidJob
from jobs.worker import settle_device
from launch.durations import duration
from launch.progress import StageProgress
from launch.run_status.worker_logs import read_worker_logs
from storage_layouts.counts import counted, plural, unit_of
from storage_layouts.differences import differences_table
from storage_layouts.embeddings import STAGE as STORE_STAGE
from storage_layouts.errors import IncompleteError, InputError
from storage_layouts.files import is_leftover
from storage_layouts.run_identity import IDENTITY
from storage_layouts.runs import RunFolder
from storage_layouts.shards import Plan
from storage_layouts.store_layout import StoreLayout

PROBE_SHARE = 8  # a shard of the probe is so many times smaller than one of the run,
FEWEST_ITEMS, MOST_ITEMS = 8, 512  # but of this size: what a file costs whatever is in it must not count for much
PROBE_SECONDS = 10.0  # no further shard is begun after this time
PROBE_SHARDS = 8
RECEIPTS_READ = 50


@dataclass(frozen=True)
class PlanEstimate:
    """What a job would do, and what it would cost.

    Attributes:
        stage: "extract", ...
        out: the run folder that it would write.
        unit: what one of its items is called, as in "row".
        items: in all.
        items_per_shard: in one unit of work.
        shards: in all.
        missing: shards that are still to be computed.
        worker_seconds: the missing shards by one worker alone, without the loading of models; None if unknown.
        workers: how many would work at the same time.
        seconds: the missing shards by these workers.
        bytes: of the data of the whole run; None if unknown.
        source: where the rate comes from, in words.
        opening_seconds: what a worker takes before its first shard, as to load the model; None if unknown. The start of
            Python and of a job comes on top.
        bills: what judges that cost money would cost; the parts of `jobs.base.PaidJob.bill`.

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
    bills: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Rate:
    source: str
    items_per_second: float | None = None  # of one worker
    bytes_per_item: float | None = None
    opening_seconds: float | None = None


def estimate(job: Job, crew_workers: int, device: str, rate_of: Path | None, console: Console) -> PlanEstimate:
    """Plan a job without starting it, and estimate what it takes.

    Args:
        job: what would run.
        crew_workers: workers at the same time.
        device: what a probe computes on: auto, cpu, cuda, cuda:N or mps.
        rate_of: an earlier run of the same stage to take the rate from.
        console: where to say what is going on.

    Raises:
        IncompleteError: the plan needs an upstream run that is not there yet.
        InputError: what the job itself would refuse; or `rate_of` is no run of this stage with finished shards.

    """
    earlier = None if rate_of is None else _measured(RunFolder.open(rate_of, job.stage), f"measured in {rate_of}")
    if rate_of is not None and earlier is None:
        raise InputError(f"--rate-of {rate_of}: no worker has finished a shard there, so it has no rate")
    _require_upstream(job)
    with tempfile.TemporaryDirectory(prefix="lens-plan-") as folder, StageProgress(console, job.stage) as progress:
        planned = _with(job, out=Path(folder) / "plan")
        run = planned.open_run()
        there = _run_at(job, run)
        if there is not None and there.plan is not None:
            run = there
        else:
            planned.plan(run, progress.say)
        rate = earlier or (_measured(there, "measured: this run") if there else None)
        if isinstance(job, PaidJob) and (bills := job.bill(run)):
            rate = rate or _Rate("none: a probe would ask the judge; give --rate-of an earlier run")
        else:
            bills, rate = [], rate or _probed(job, run, device, Path(folder), progress.say)
        plan = run.require_plan()
        found = _estimate(job, run, plan, rate, max(1, crew_workers), len(run.missing()))
        return dataclasses.replace(found, bills=tuple(bills))


def _estimate(job: Job, run: RunFolder, plan: Plan, rate: _Rate, workers: int, missing: int) -> PlanEstimate:
    workers = max(1, min(workers, missing))
    left = sum(shard.items for shard in run.missing())
    alone = together = None
    if rate.items_per_second:
        alone = left / rate.items_per_second
        # Whole shards: the slowest worker has one more of them than the others.
        together = min(alone, -(-missing // workers) * plan.items_per_shard / rate.items_per_second)
    return PlanEstimate(
        stage=job.stage,
        out=_out(job),
        unit=unit_of(job.stage),
        items=plan.items,
        items_per_shard=plan.items_per_shard,
        shards=plan.shard_count,
        missing=missing,
        worker_seconds=alone,
        workers=workers,
        seconds=together,
        bytes=_bytes(run, plan, rate),
        source=rate.source,
        opening_seconds=rate.opening_seconds,
    )


def estimate_table(found: PlanEstimate) -> Table:
    """An estimate as a table of two columns."""
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
    """The same job with other values of some fields."""
    return cast(Job, dataclasses.replace(cast(Any, job), **fields))


def _out(job: Job) -> Path:
    return cast(Any, job).out


def _require_upstream(job: Job) -> None:
    """IncompleteError if the plan needs a run that does not exist yet, or has not got far enough."""
    for path in job.upstream:
        if not (path / "run.json").exists():
            raise IncompleteError(f"{job.stage}: cannot be planned before {path} is there; repeat --plan then")
        run = RunFolder.open(path)
        if run.plan is None or (job.plans_on == "complete" and not run.is_complete()):
            raise IncompleteError(f"{job.stage}: cannot be planned before {path} is {job.plans_on}; repeat --plan then")


def _run_at(job: Job, planned: RunFolder) -> RunFolder | None:
    """The run that is in the job's folder already. InputError if the job would be refused that folder."""
    out = _out(job)
    if not (out / "run.json").exists():
        planning = (out / "planning.json").exists()
        if out.is_dir() and not planning and any(not is_leftover(path.name) for path in out.iterdir()):
            raise InputError(f"{out}: the folder is not empty and has no run.json; choose a new or empty folder")
        return None
    there = RunFolder.open(out)
    if there.run_id == planned.run_id:
        return there
    found, expected = ({key: getattr(run, key) for key in IDENTITY} for run in (there, planned))
    raise InputError(
        f"{out}: this folder belongs to another run; choose another folder or the same settings\n"
        + differences_table(found, expected)
    )


def _measured(run: RunFolder, source: str) -> _Rate | None:
    """The rate of a run's workers on average; None if they finished nothing."""
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


def _probed(job: Job, run: RunFolder, device: str, folder: Path, say: Callable[[str], None]) -> _Rate:
    """Compute some small shards on this machine. The first one warms up and is not counted."""
    if not all(RunFolder.open(path).is_complete() for path in job.upstream):
        paths = ", ".join(map(str, job.upstream))
        return _Rate(f"none: a probe needs all of {paths}, which is not complete yet; give --rate-of an earlier run")
    if not run.require_plan().items:
        return _Rate("none: there is nothing to do")
    threads = _torch_threads(job)
    try:
        device = settle_device(device) if job.needs_device else "cpu"
    except InputError as refusal:
        return _Rate(f"none: {refusal}; or give --rate-of an earlier run")
    try:
        return _probe(job, device, folder / "probe", say)
    finally:
        _torch_threads(job, threads)


def _probe(job: Job, device: str, out: Path, say: Callable[[str], None]) -> _Rate:
    usual = getattr(job, job.shard_size)
    size = min(usual, MOST_ITEMS, max(FEWEST_ITEMS, usual // PROBE_SHARE))
    small = _with(job, out=out, **{job.shard_size: size})
    say("planning a probe")
    run = small.open_run()
    small.plan(run, say)
    shards = run.require_plan().shards()[:PROBE_SHARDS]
    say(f"probing on {device}")
    began = time.monotonic()
    worker = small.open_worker(run, device)
    opening = time.monotonic() - began
    worker.run(shards[0])
    items = size_written = count = 0
    began = time.monotonic()
    for shard in shards[1:] or shards:
        receipt = worker.run(shard)
        items, count = items + receipt.items, count + 1
        size_written += sum(digest.bytes for digest in receipt.files.values())
        seconds = time.monotonic() - began
        if seconds > PROBE_SECONDS:
            break
    shards_of = f"{counted(count, 'shard')} of {counted(size, unit_of(job.stage))}"
    source = f"probed on {device} of {socket.gethostname()}, {shards_of}"
    return _Rate(source, items / seconds, size_written / items, opening)


def _torch_threads(job: Job, threads: int = 0) -> int:
    """Torch's number of threads, which `settle_device` makes one as in a worker; sets it if it is given."""
    if not job.needs_device:
        return 0
    import torch

    if threads:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def _bytes(run: RunFolder, plan: Plan, rate: _Rate) -> int | None:
    """Data of the whole run: exact for a store but for some small files, as nothing in it is compressed."""
    planned = sum(digest.bytes for digest in plan.files.values())
    if run.stage == STORE_STAGE:
        layout = StoreLayout.from_metadata(str(run.path), run.read_plan_file("zarr.json"))
        sizes = Counter(shard.items for shard in plan.shards())
        return planned + sum(count * layout.shard_bytes(rows) for rows, count in sizes.items())
    return None if rate.bytes_per_item is None else planned + round(rate.bytes_per_item * plan.items)
