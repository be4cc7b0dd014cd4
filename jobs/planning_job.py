"""The planning of a large extract run as work for a cluster, with a run folder of its own inside that of the store."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jobs.base import command_line
from jobs.planning_tree import PlanningTree
from jobs.planning_worker import PlanningWorker
from jobs.work import work
from jobs.worker import job_of
from jobs.worker_memory import PROCESS_BYTES
from lenscore.contexts.context_table import REMEMBERED
from lenscore.contexts.corpus import corpus_files
from lenscore.contexts.corpus_file import CorpusFile
from lenscore.contexts.corpus_pieces import PIECE_BYTES, FilePart, Piece, split_corpus
from lenscore.contexts.named_corpora import recorded_commits
from storage_layouts.errors import InputError, MachineError
from storage_layouts.files import json_bytes, write_atomic
from storage_layouts.processes import unique_name
from storage_layouts.runs import RunFolder, Shard

if TYPE_CHECKING:
    from jobs.extract_job import ExtractJob

PIECES = "pieces.json"
WAIT_SECONDS = 1.0
BYTES_A_SENTENCE = 400
"""Of a sentence that is remembered, with its characters."""
BYTES_A_CONTEXT = 400
"""Of a context of 40 bytes while samples are merged, and of its row and its sentence while the tables are written."""


@dataclass(frozen=True)
class PlanningJob:
    """Choose the rows of a store, and collect their sentences, piece by piece of the corpus.

    The settings are those of the extract run in whose folder it lies.
    """

    out: Path
    """The folder `planning` in the folder of a store."""
    piece_bytes: int = PIECE_BYTES
    """Bytes of text in a piece of the corpus, about."""

    stage: ClassVar[str] = "planning"
    needs_device: ClassVar[bool] = False
    plans_on: ClassVar[Literal["planned", "complete"]] = "planned"
    shard_size: ClassVar[str] = "piece_bytes"

    @property
    def upstream(self) -> tuple[Path, ...]:
        """There are no upstream runs."""
        return ()

    def require_files(self) -> None:
        """The extract run has looked at its files."""

    def open_run(self) -> RunFolder:
        """Create or resume the planning of the run around it; that of a run which had the folder before is removed."""
        config = {"piece_bytes": self.piece_bytes}
        inputs = {"run": RunFolder.open(self.out.parent).run_id}
        if (self.out / "run.json").exists() and RunFolder.open(self.out, self.stage).inputs != inputs:
            shutil.rmtree(self.out)
        return RunFolder.create(self.out, self.stage, config, inputs, command_line(self, config))

    def plan(self, run: RunFolder, progress: Callable[[str], None]) -> None:
        """Divide the corpus into pieces."""
        if run.plan is not None:
            return
        pieces = split_corpus(self.corpus_files, self.piece_bytes)
        run.settle()
        content = [[[one.file, *(one.part or ())] for one in piece] for piece in pieces]
        files = {PIECES: write_atomic(run.path / PIECES, json_bytes({"pieces": content}))}
        run.write_plan(PlanningTree(len(pieces)).shards, 1, files, {"pieces": len(pieces)})

    def smaller(self, name: str, piece_bytes: int) -> PlanningJob:
        """The same with smaller pieces, in a folder of this name beside this one."""
        return replace(self, out=self.out.with_name(name), piece_bytes=piece_bytes)

    def worker_bytes(self) -> int:
        """See `jobs.base.ModelJob`: the process, and what is in memory of each kept context and its sentence."""
        return PROCESS_BYTES + REMEMBERED * BYTES_A_SENTENCE + self._extract.most_rows * BYTES_A_CONTEXT

    def open_worker(self, run: RunFolder, device: str) -> PlanningWorker:
        """Load the tokenizer."""
        return PlanningWorker(run, self._extract, self.corpus_files, pieces_of(run))

    def ready(self, run: RunFolder) -> Callable[[Shard, set[int]], bool]:
        """See `jobs.base.TreeJob`."""
        tree = PlanningTree(run.require_plan().facts["pieces"])
        return lambda shard, done: tree.ready(shard.index, done)

    @cached_property
    def _extract(self) -> ExtractJob:
        job: Any = job_of(RunFolder.open(self.out.parent))
        return job

    @cached_property
    def corpus_files(self) -> list[CorpusFile]:
        """The files of the corpus, in order. Raises InputError if they are no longer those that the run began with."""
        run = RunFolder.open(self.out.parent)
        files = corpus_files(run.config["corpus"], commits=recorded_commits(run))
        if [file.origin for file in files] != (run.inputs.get("corpus") or {}).get("files"):
            raise InputError("--corpus: other files than when the command began; repeat the command")
        return files


def finish_planning(job: PlanningJob, store: RunFolder, progress: Callable[[str], None]) -> None:
    """Work at the planning of a store until the store has its plan, together with all other processes that do.

    Raises InputError for a corpus that is refused, or that changed since a piece of it was read.
    """
    run = job.open_run()
    job.plan(run, progress)
    while store.plan is None:
        if run.is_complete():  # and the plan of the store was seen by others, or somebody has deleted it
            time.sleep(WAIT_SECONDS)
            if store.plan is None:
                run.receipt_path(run.require_plan().shard_count - 1).unlink(missing_ok=True)
        progress(f"planning: {len(run.done()):,} of {run.require_plan().shard_count:,} parts done")
        report = work(run, lambda: job.open_worker(run, "cpu"), unique_name(), ready=job.ready(run))
        if report.refused:
            raise InputError(report.refused)
        if report.broken:
            raise MachineError(str(run.path), report.broken.strip().splitlines()[-1], "repeat the command")
        if not run.unfinished():
            run.require_complete()  # shards that failed too often
        elif store.plan is None:  # others are at work
            time.sleep(WAIT_SECONDS)


def pieces_of(run: RunFolder) -> list[Piece]:
    """The pieces of the corpus of a planning."""
    content = json.loads(run.read_plan_file(PIECES))["pieces"]
    return [tuple(FilePart(file, tuple(part) or None) for file, *part in piece) for piece in content]
