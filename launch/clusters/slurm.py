"""SLURM: job arrays whose elements are workers, through submitit. Truth stays in the run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from submitit import SlurmExecutor
from submitit.slurm.slurm import _make_sbatch_string

from jobs.worker import WorkerOptions
from launch.clusters.cluster import CallStatus, Cluster, QueueView, WorkerRequest
from launch.clusters.slurm_calls import calls_in, record_call
from launch.clusters.slurm_element import STARTED, Call, Element
from launch.clusters.slurm_ends import view_of
from launch.clusters.slurm_queue import (
    QueueEntry,
    SilentError,
    job_name,
    jobs_behind,
    max_array_size,
    minutes_of,
    partitions,
    queue_of,
)
from launch.clusters.slurm_sbatch import submitting
from launch.clusters.slurm_script import autopsy, checked
from launch.clusters.slurm_submission import SlurmSubmission
from storage_layouts.errors import CorruptError, InputError
from storage_layouts.files import read_json, write_json
from storage_layouts.runs import RunFolder

__all__ = ["QueueEntry", "Slurm", "queue_of"]

SETTINGS = "settings.json"
"""In the folder of a submission: what the flags of the command said."""
DEFAULT_WORKERS = 8
DEFAULT_MINUTES = 24 * 60
NOTICE_SECONDS = 90
"""How long before a time limit SLURM sends its signal; a twelfth of the limit where that is less."""
NO_LIMIT_OF_REQUEUES = 10**9

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)([KMGT])B?", re.IGNORECASE)
_FLAG_OF = {
    "account": "--account",
    "constraint": "--constraint",
    "cpus_per_task": "--cpus",
    "mem": "--memory",
    "partition": "--partition",
    "qos": "--qos",
    "time": "--time",
    "ntasks_per_node": "--gpus-per-node",
    "dependency": "--after",
}
_OWN = {
    *("array", "error", "job_name", "nodes", "no_requeue", "ntasks"),
    *("open_mode", "output", "requeue", "signal", "wrap"),
}
_GPU_PARAMETERS = {"gpus", "gpus_per_node", "gpus_per_task", "gres"}


@dataclass(frozen=True)
class Slurm(Cluster):
    """SLURM. One array element holds one worker, or one for each of its GPUs; see `--workers` for how many in all."""

    name: ClassVar[str] = "slurm"
    queues: ClassVar[bool] = True

    partition: str = ""
    """Partition, or several as in a,b; by default the cluster's default."""
    account: str = ""
    """Account to charge."""
    qos: str = ""
    """Quality of service."""
    time: str = ""
    """Time limit of an element, as sbatch takes it (60, 4:00:00, 1-12); a worker whose time is up is queued again. By
    default a day, or the partition's limit if that is shorter."""
    gpus_per_node: int | None = None
    """GPUs of an element, with a worker on each; by default 1 where the stage computes on GPUs, else 0."""
    cpus: int | None = None
    """CPU cores of each worker; by default 4 where it computes on a GPU, else 1."""
    memory: str = ""
    """Memory of each worker, as in 32GB; 0 for all of a node. By default 32GB where a model is loaded, else 4GB."""
    constraint: str = ""
    """Features that the nodes must have, as in a100."""
    parallel: int | None = None
    """Elements that may run at the same time; by default as many as the cluster lets run."""
    sbatch: tuple[str, ...] = ()
    """Further sbatch parameters, as in exclude=n7 reservation=lab gres=gpu:a100:1 exclusive."""
    setup: tuple[str, ...] = ()
    """Shell lines before the workers start, as in 'module load cuda'."""
    python: str = ""
    """Command that starts Python on the nodes, as in 'apptainer exec --nv my.sif python'; by default this Python."""

    def __post_init__(self) -> None:
        """Refuse values that no job could use."""
        if self.time and not minutes_of(self.time):
            raise InputError(f"--time: found {self.time!r}, expected minutes, H:MM:SS, D-HH or D-HH:MM:SS, above 0")
        if self.memory and self.memory != "0" and not _MEMORY.fullmatch(self.memory):
            raise InputError(f"--memory: found {self.memory!r}, expected a size with its unit, as in 32GB, or 0")
        for field, least in (("gpus_per_node", 0), ("cpus", 1), ("parallel", 1)):
            value = getattr(self, field)
            if value is not None and value < least:
                raise InputError(f"--{field.replace('_', '-')}: found {value}, expected at least {least}")
        for key, value in self._extra().items():
            if key in _FLAG_OF:
                raise InputError(f"--sbatch {key}={value}: there is a flag for it; expected {_FLAG_OF[key]}")
            if key in _OWN or not re.fullmatch(r"[a-z][a-z_]*", key):
                taken = "lenscore sets it itself" if key in _OWN else "not a name of an sbatch parameter"
                raise InputError(f"--sbatch {key}: {taken}; expected KEY=VALUE, as in exclude=n7")

    def check(self, request: WorkerRequest) -> None:
        """InputError if SLURM does not answer, or for a partition or a time limit that it does not have."""
        self._settled(request)

    def default_workers(self, request: WorkerRequest) -> int:
        """`DEFAULT_WORKERS`: how many a cluster can spare, it does not say."""
        return DEFAULT_WORKERS

    def attach(self, run: RunFolder, request: WorkerRequest) -> SlurmSubmission | None:
        """The jobs of this run that an earlier command left in the queue.

        InputError if SLURM does not answer: jobs may be there.
        """
        entries = queue_of(run)
        if not entries:
            return None
        told = self._told(request)
        before = [settings for array in {entry.array for entry in entries} for settings in _settings_of(run, array)]
        differing = {name for settings in before for name in told if settings.get(name, told[name]) != told[name]}
        flags = tuple(f"{_flag(name)} {told[name]}".strip() for name in told if name in differing)
        return SlurmSubmission(run, [entry.job for entry in entries], flags)

    def submit(self, run: RunFolder, request: WorkerRequest, after: Sequence[RunFolder] = ()) -> SlurmSubmission:
        """Queue the workers: at most one for each missing shard, `DEFAULT_WORKERS` if nobody says how many.

        `after`: they are queued behind the jobs of these runs, however those end; the workers look at the receipts.

        Raises:
            InputError: no SLURM here, no such partition, or what sbatch says. Then nothing is queued.

        """
        settings = self._settled(request)
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
        write_json(folder / SETTINGS, self._told(request))
        return SlurmSubmission(run, jobs)

    def submit_function(
        self,
        name: str,
        folder: Path,
        function: Callable[[list[str]], int],
        flags: list[str],
        after: Sequence[RunFolder],
    ) -> str:
        """Queue one call on a node without a GPU; see `Cluster.submit_function`. It can be imported on the nodes."""
        request = WorkerRequest(1, False, WorkerOptions("cpu"))
        settings = dataclasses.replace(self, gpus_per_node=0)._settled(request)
        folder = folder.absolute() / secrets.token_hex(6)
        executor = SlurmExecutor(folder, python=self.python or None)
        executor.update_parameters(**settings.parameters(name, request, None), **jobs_behind(after))
        with submitting(folder):
            job = executor.submit(Call(function, tuple(flags)))
        record_call(folder, name, job.job_id)
        return f"SLURM job {job.job_id}"

    def view(self, run: RunFolder, living: Collection[str]) -> QueueView:
        """What SLURM says and has written of a run that was submitted."""
        return view_of(run, living)

    def calls_in(self, folder: Path) -> Iterable[CallStatus]:
        """The calls that were queued from a folder. SLURM is asked for each."""
        return calls_in(folder)

    def plan_text(
        self, stage: str, request: WorkerRequest, missing: int, out: Path = Path("OUT"), run_id: str = "RUN-ID"
    ) -> str:
        """The batch script that `submit` would hand to sbatch for so many missing shards; nothing is written.

        Where there is no SLURM to ask, or it does not answer, the limits of partitions and arrays are left out of
        account; the last line says so if it does not answer.
        """
        settings, largest, silence = self, None, ""
        if shutil.which("sbatch") is not None:
            try:
                settings, largest = self._settled(request), max_array_size()
            except SilentError as error:
                silence = f"\n# limits of partitions and arrays are left out of account: {error}"
        elements = settings.elements(out.absolute(), request, missing)
        arrays = list(_arrays(elements, largest or len(elements), settings.parallel))
        batch, share = arrays[0]
        folder = out.absolute() / "submissions" / "NEW"
        text: str = _make_sbatch_string(
            command=f"{self._python()} -u -m submitit.core._submit {shlex.quote(str(folder))}",
            folder=folder,
            map_count=len(batch) if len(batch) > 1 else None,
            **settings.parameters(job_name(stage, run_id), request, share),
        )
        sizes = ", ".join(str(len(batch)) for batch, _ in arrays)
        more = f"\n# submitted {len(arrays)} times, as arrays of {sizes} elements: an array has a largest size here"
        return text + (more if len(arrays) > 1 else "") + silence

    def elements(self, run: Path, request: WorkerRequest, missing: int | None) -> list[Element]:
        """The array elements for a crew, all with their own slices of the shards."""
        tasks = self._tasks(request)
        workers = request.workers or DEFAULT_WORKERS
        count = -(-min(workers, workers if missing is None else max(missing, 1)) // tasks)
        minutes = minutes_of(self.time) or DEFAULT_MINUTES
        options = dataclasses.replace(request.options, device=self._device(request))
        return [Element(run, options, i * tasks, count * tasks, minutes, _notice(minutes)) for i in range(count)]

    def parameters(self, name: str, request: WorkerRequest, parallel: int | None) -> dict[str, Any]:
        """What submitit makes the batch script from."""
        gpus, tasks, extra = self._gpus(request), self._tasks(request), self._extra()
        cpus = self.cpus or (1 if self._device(request) == "cpu" else 4)
        minutes = minutes_of(self.time) or DEFAULT_MINUTES
        environment = ["export TOKENIZERS_PARALLELISM=false"]
        if self._device(request) == "cpu":
            # One thread a worker: how many threads share a sum must not decide its last bit.
            environment += ["export OMP_NUM_THREADS=1", "export MKL_NUM_THREADS=1"]
        chosen: dict[str, Any] = {
            "job_name": name,
            "partition": self.partition or None,
            "account": self.account or None,
            "qos": self.qos or None,
            "constraint": self.constraint or None,
            "time": minutes,
            "gpus_per_node": None if _GPU_PARAMETERS & extra.keys() else gpus or None,
            "ntasks_per_node": tasks,
            "cpus_per_task": cpus,
            "mem": self._memory(request, tasks),
            "signal_delay_s": _notice(minutes),
            "array_parallelism": parallel or 10**6,
            "wckey": None,  # submitit's own one is refused where workload keys are checked
            # The last line wins: what a module sets must not change bytes.
            "setup": [f"export {STARTED}=$(date +%s)", *checked(self.setup), *environment],
            "teardown": autopsy(self._python()),
            "srun_args": [f"--cpus-per-task={cpus}"],  # since 22.05 srun does not take it over from sbatch
            "additional_parameters": {"requeue": True, **extra},  # clusters may have it off by default
        }
        return {key: value for key, value in chosen.items() if value is not None or key == "wckey"}

    def _told(self, request: WorkerRequest) -> dict[str, str]:
        """What the flags said, by the names of the fields; "" for those not given."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values = {"workers": request.workers, "device": request.options.device, **fields}
        words = {name: shlex.join(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {name: "" if value is None else str(value) for name, value in words.items()}

    def _settled(self, request: WorkerRequest) -> Slurm:
        """These settings as this cluster takes them: partitions that exist, a time limit that they allow."""
        self._device(request)
        limits = partitions()
        names = self.partition.split(",") if self.partition else list(limits)[:1]
        for name in names:
            if name not in limits:
                raise InputError(f"--partition: found {name!r}, expected one of {', '.join(sorted(limits))}")
        found = [limit for name in names if (limit := limits[name]) is not None]
        longest = None if not names or len(found) < len(names) else max(found)
        if self.time:
            asked = minutes_of(self.time) or 0
            if longest is not None and asked > longest:
                raise InputError(
                    f"--time: found {self.time} ({asked} minutes), expected at most {longest} minutes, "
                    f"the limit of the partition {', '.join(names)}"
                )
            return self
        return dataclasses.replace(self, time=str(min(DEFAULT_MINUTES, longest or DEFAULT_MINUTES)))

    def _python(self) -> str:
        return self.python or shlex.quote(sys.executable)

    def _device(self, request: WorkerRequest) -> str:
        """What the workers compute on: a GPU that was asked for and does not work must not mean a week on a CPU."""
        device = request.options.device
        if device not in ("auto", "cpu", "cuda", "spread"):
            raise InputError(f"--device {device}: SLURM hands out the GPUs; expected auto, cpu, cuda or spread")
        if device in ("cuda", "spread") and not self._gpus(request):
            raise InputError(f"--device {device}: expected --gpus-per-node of at least 1")
        return device if device != "auto" else "cuda" if self._gpus(request) else "cpu"

    def _gpus(self, request: WorkerRequest) -> int:
        if self.gpus_per_node is not None:
            return self.gpus_per_node
        return int(request.needs_device and request.options.device != "cpu")

    def _tasks(self, request: WorkerRequest) -> int:
        # One worker a GPU, but one for all of them where the model is divided among them.
        return 1 if request.options.device == "spread" else max(1, self._gpus(request))

    def _memory(self, request: WorkerRequest, tasks: int) -> str:
        found = _MEMORY.fullmatch(self.memory or ("32GB" if request.needs_device else "4GB"))
        if found is None:
            return "0"
        exponent = "KMGT".index(found[2].upper())
        return f"{max(1, round(float(found[1]) * 1024.0 ** (exponent - 1) * tasks))}M"

    def _extra(self) -> dict[str, str | bool]:
        pairs = (entry.removeprefix("--").partition("=") for entry in self.sbatch)
        # Underscores, as submitit names its own parameters: a parameter given twice would be written twice.
        return {key.strip().replace("-", "_"): value if equals else True for key, equals, value in pairs}


def _settings_of(run: RunFolder, array: str) -> Iterator[dict[str, str]]:
    """What the command said that submitted an array; nothing if an older version did."""
    for script in (run.path / "submissions").glob(f"*/{array}_submission.sh"):
        with contextlib.suppress(CorruptError):
            yield read_json(script.parent / SETTINGS)


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _notice(minutes: int) -> int:
    return min(NOTICE_SECONDS, 5 * minutes)


def _arrays(elements: list[Element], largest: int, parallel: int | None) -> Iterator[tuple[list[Element], int | None]]:
    """The elements in arrays of at most `largest`, each with its share of the elements that may run at once."""
    arrays = -(-len(elements) // largest)
    for i in range(arrays):
        share = None if parallel is None else max(1, parallel // arrays + (i < parallel % arrays))
        yield elements[i * largest : (i + 1) * largest], share
