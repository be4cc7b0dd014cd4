"""SLURM: job arrays whose elements are workers, submitted through submitit. Only the receipts say what is done."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jobs.worker import WorkerOptions
from launch.clusters.cluster import CallStatus, Cluster, QueueView, WorkerRequest
from launch.clusters.slurm_calls import calls_in, record_call
from launch.clusters.slurm_element import Call, Element
from launch.clusters.slurm_ends import view_of
from launch.clusters.slurm_queue import SilentError, job_name, jobs_behind, max_array_size, partitions, queue_of
from launch.clusters.slurm_sbatch import submitting
from launch.clusters.slurm_settings import DEFAULT_MINUTES, DEFAULT_WORKERS, SlurmSettings
from launch.clusters.slurm_submission import SlurmSubmission
from launch.flag_values import flag_of
from storage_layouts.errors import CorruptError, InputError
from storage_layouts.files import read_json, write_json
from storage_layouts.runs import RunFolder

SETTINGS = "settings.json"
"""The flags of the command, in the folder of a submission."""
NO_LIMIT_OF_REQUEUES = 10**9


@dataclass(frozen=True)
class Slurm(SlurmSettings, Cluster):
    """SLURM. One array element holds one worker, or one for each of its GPUs; see `--workers` for how many in all."""

    name: ClassVar[str] = "slurm"
    queues: ClassVar[bool] = True

    def check(self, request: WorkerRequest) -> None:
        """Raises InputError if SLURM does not answer, or for an unknown partition or a time limit above its limit."""
        self._resolved(request)

    def default_workers(self, request: WorkerRequest) -> int:
        """Returns `DEFAULT_WORKERS`; SLURM does not tell how many are appropriate."""
        return DEFAULT_WORKERS

    def attach(self, run: RunFolder, request: WorkerRequest) -> SlurmSubmission | None:
        """Returns the queued or running jobs of this run. Raises InputError if SLURM does not answer."""
        entries = queue_of(run)
        if not entries:
            return None
        before = [settings for array in {entry.array for entry in entries} for settings in _settings_of(run, array)]
        flags = tuple(
            f"{flag_of(name)} {value}".strip()
            for name, value in self.given(request).items()
            if any(settings.get(name, value) != value for settings in before)
        )
        return SlurmSubmission(run, [entry.job for entry in entries], flags)

    def submit(self, run: RunFolder, request: WorkerRequest, after: Sequence[RunFolder] = ()) -> SlurmSubmission:
        """Queue workers, by default `DEFAULT_WORKERS`, at most one for each missing shard.

        Args:
            run: its missing shards are computed.
            request: the workers.
            after: runs whose jobs must end first, with or without success; the workers check the receipts.

        Raises:
            InputError: SLURM does not answer, or refuses the jobs. Then none is queued.

        """
        from submitit import SlurmExecutor

        settings = self._resolved(request)
        if "%" in str(run.path.absolute()):
            raise InputError(f"{run.path}: SLURM reads % in a path as a pattern; choose another folder")
        missing = len(run.missing()) if run.plan else None
        folder = run.path.absolute() / "submissions" / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        elements = settings.elements(run.path.absolute(), request, missing)
        dependency = jobs_behind(after)
        jobs: list[str] = []
        try:
            for batch, share in _arrays(elements, max_array_size(), settings.parallel):
                executor = SlurmExecutor(folder, NO_LIMIT_OF_REQUEUES, python=self.python or None)
                executor.update_parameters(**settings.parameters(job_name(run.stage, run.run_id), request, share))
                executor.update_parameters(**dependency)
                with submitting(folder):
                    jobs += [job.job_id for job in executor.submit_array(batch)]
        except BaseException:
            if jobs:
                subprocess.run(["scancel", *{job.partition("_")[0] for job in jobs}], timeout=60, check=False)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        write_json(folder / SETTINGS, self.given(request))
        return SlurmSubmission(run, jobs)

    def submit_function(
        self,
        name: str,
        folder: Path,
        function: Callable[[list[str]], int],
        flags: list[str],
        after: Sequence[RunFolder],
    ) -> str:
        """Queue one call on a node without a GPU; see `Cluster.submit_function`. It must be importable on the nodes."""
        from submitit import SlurmExecutor

        request = WorkerRequest(1, False, WorkerOptions("cpu"))
        settings = dataclasses.replace(self, gpus_per_node=0)._resolved(request)
        folder = folder.absolute() / secrets.token_hex(6)
        executor = SlurmExecutor(folder, python=self.python or None)
        executor.update_parameters(**settings.parameters(name, request, None), **jobs_behind(after))
        with submitting(folder):
            job = executor.submit(Call(function, tuple(flags)))
        record_call(folder, name, job.job_id)
        return f"SLURM job {job.job_id}"

    def view(self, run: RunFolder, living: Collection[str]) -> QueueView:
        """Returns the queue and the failed jobs of a run."""
        return view_of(run, living)

    def calls_in(self, folder: Path) -> Iterable[CallStatus]:
        """Yields the calls that were queued from a folder; each needs a query to SLURM."""
        return calls_in(folder)

    def plan_text(self, stage: str, request: WorkerRequest, missing: int, out: Path = Path("OUT")) -> str:
        """Returns the batch script that `submit` would pass to sbatch; writes nothing.

        Without an answer from SLURM, the limits of partitions and arrays are ignored, and the last line says so if
        SLURM is installed.

        Args:
            stage: of the run.
            request: the workers.
            missing: number of missing shards.
            out: the run folder.

        """
        from submitit.slurm.slurm import _make_sbatch_string

        settings, largest, silence = self, None, ""
        if shutil.which("sbatch") is not None:
            try:
                settings, largest = self._resolved(request), max_array_size()
            except SilentError as error:
                silence = f"\n# limits of partitions and arrays are left out of account: {error}"
        elements = settings.elements(out.absolute(), request, missing)
        arrays = list(_arrays(elements, largest or len(elements), settings.parallel))
        batch, share = arrays[0]
        folder = out.absolute() / "submissions" / "NEW"
        text: str = _make_sbatch_string(
            command=f"{self.python_command} -u -m submitit.core._submit {shlex.quote(str(folder))}",
            folder=folder,
            map_count=len(batch) if len(batch) > 1 else None,
            **settings.parameters(job_name(stage, "RUN-ID"), request, share),
        )
        sizes = ", ".join(str(len(batch)) for batch, _ in arrays)
        more = f"\n# submitted {len(arrays)} times, as arrays of {sizes} elements: an array has a largest size here"
        return text + (more if len(arrays) > 1 else "") + silence

    def _resolved(self, request: WorkerRequest) -> Slurm:
        """Returns these settings with a time limit. Raises InputError for a partition or time that SLURM refuses."""
        self.device(request)
        limits = partitions()
        names = self.partition.split(",") if self.partition else list(limits)[:1]
        for name in names:
            if name not in limits:
                raise InputError(f"--partition: found {name!r}, expected one of {', '.join(sorted(limits))}")
        found = [limit for name in names if (limit := limits[name]) is not None]
        longest = None if not names or len(found) < len(names) else max(found)
        if not self.time:
            return dataclasses.replace(self, time=str(min(DEFAULT_MINUTES, longest or DEFAULT_MINUTES)))
        if longest is not None and self.minutes > longest:
            raise InputError(
                f"--time: found {self.time} ({self.minutes} minutes), expected at most {longest} minutes, "
                f"the limit of the partition {', '.join(names)}"
            )
        return self


def _settings_of(run: RunFolder, array: str) -> Iterator[dict[str, str]]:
    """Yields the flags of the command that submitted an array; older versions have not recorded them."""
    for script in (run.path / "submissions").glob(f"*/{array}_submission.sh"):
        with contextlib.suppress(CorruptError):
            yield read_json(script.parent / SETTINGS)


def _arrays(elements: list[Element], largest: int, parallel: int | None) -> Iterator[tuple[list[Element], int | None]]:
    """Yields the elements in arrays of at most `largest`, each with the number that may run at the same time."""
    arrays = -(-len(elements) // largest)
    for i in range(arrays):
        share = None if parallel is None else max(1, parallel // arrays + (i < parallel % arrays))
        yield elements[i * largest : (i + 1) * largest], share
