"""`lens pipeline --plan`: a table of all stages with their time, bytes and cost; nothing is written or submitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from jobs.analyze_settings import AnalyzeSettings
from jobs.judge_settings import JudgeSettings
from launch.durations import duration
from launch.pipeline_file import Pipeline, Stage
from launch.stages import estimate_of
from launch.terminal import print_err, print_out, to_file_or_terminal
from lenscore.images.image_files import find_images
from storage_layouts.counts import counted
from storage_layouts.errors import IncompleteError, InputError


@dataclass(frozen=True)
class _Row:
    """One stage of one chain. None is unknown, for the reason in `unknown`."""

    stage: Stage
    unknown: str
    source: str
    items: str | None = None
    shards: int | None = None
    seconds: float | None = None
    bytes: int | None = None
    dollars: float | None = None


def show_plan(pipeline: Pipeline) -> int:
    """Print the table, the sources of its rates, and the sbatch texts; returns 0, or 2 if a stage is refused."""
    rows: list[_Row] = []
    code = 0
    for chain in pipeline.chains:
        before = ""
        for stage in chain:
            try:
                rows.append(_row(stage, before))
            except InputError as refusal:
                print_err(f"error: {stage.title}: {refusal}", style="red")
                code = 2
                break
            before = stage.job.stage
    to_file_or_terminal(140).print(_table(rows))
    for row in rows:
        print_out(f"{row.stage.title}: {row.source}")
    for row in rows:
        launch, job = row.stage.launch, row.stage.job
        if text := launch.chosen().plan_text(job.stage, launch.request(job), row.shards or 1, row.stage.folder):
            print_out(text)
    return code


def _row(stage: Stage, before: str) -> _Row:
    """Returns the row of a stage, incomplete if the stage before it has not run."""
    job = stage.job
    try:
        found = estimate_of(job, stage.launch)
    except IncompleteError:
        free = 0.0 if not isinstance(job, JudgeSettings) or not job.asks else None
        waits = f"after {before}", f"known {before and 'after ' + before} has run"
        if isinstance(job, AnalyzeSettings):
            images = len(find_images(job.images, job.caption_column, job.path_column))
            return _Row(stage, *waits, counted(images, "image"), -(-images // job.images_per_shard), dollars=free)
        return _Row(stage, *waits, dollars=free)
    bills = "".join(f"; {bill.judge}: at most ${bill.worst:,.2f}" for bill in found.bills)
    return _Row(
        stage,
        "unknown",
        f"{found.source}{bills}",
        counted(found.items, found.unit),
        found.missing,
        found.seconds if found.missing else 0.0,
        found.bytes,
        sum(bill.dollars for bill in found.bills),
    )


_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "shards": ("shards", lambda shards: f"{shards:,}"),
    "time": ("seconds", duration),
    "bytes": ("bytes", decimal),
    "money": ("dollars", lambda dollars: f"${dollars:,.2f}"),
}


def _table(rows: Sequence[_Row]) -> Table:
    table = Table(
        title="Shards still to do, one stage after the other; loading models is not counted. Nothing was submitted.",
        title_justify="left",
        show_footer=True,
    )
    for name in ("model", "corpus", "stage", "items"):
        table.add_column(name, "in all" if name == "model" else "", overflow="fold")
    for name, (field, words) in _COLUMNS.items():
        known = [value for row in rows if (value := getattr(row, field)) is not None]
        total = words(sum(known)) if len(known) == len(rows) else f"at least {words(sum(known))}"
        table.add_column(name, total, justify="right")
    for row in rows:
        shown = [
            row.unknown if getattr(row, field) is None else words(getattr(row, field))
            for field, words in _COLUMNS.values()
        ]
        table.add_row(*map(escape, (row.stage.model, row.stage.corpus, row.stage.job.stage)), row.items or "", *shown)
    return table
