"""The flags of `--cluster slurm`, and the array elements and sbatch parameters that follow from them."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.clusters.cluster import WorkerRequest
from launch.clusters.slurm_element import STARTED, Element
from launch.clusters.slurm_queue import minutes_of
from launch.clusters.slurm_script import autopsy, checked
from launch.flag_values import flag_of
from launch.memory_sizes import memory_bytes
from storage_layouts.errors import InputError

DEFAULT_WORKERS = 8
DEFAULT_MINUTES = 24 * 60
NOTICE_SECONDS = 90
"""Time between SLURM's signal and a time limit; for short limits it is a twelfth of the limit."""

_FLAG_OF = {
    **{name: f"--{name}" for name in ("account", "constraint", "partition", "qos", "time")},
    **{"cpus_per_task": "--cpus", "mem": "--memory", "ntasks_per_node": "--gpus-per-node", "dependency": "--after"},
}
_OWN = {
    *("array", "error", "job_name", "nodes", "no_requeue", "ntasks"),
    *("open_mode", "output", "requeue", "signal", "wrap"),
}
_GPU_PARAMETERS = {"gpus", "gpus_per_node", "gpus_per_task", "gres"}


@dataclass(frozen=True)
class SlurmSettings:
    """The flags. An array element runs one worker, or one for each of its GPUs."""

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
        """Raises InputError for values that no job can use."""
        if self.time and not minutes_of(self.time):
            raise InputError(f"--time: found {self.time!r}, expected minutes, H:MM:SS, D-HH or D-HH:MM:SS, above 0")
        if self.memory and self.memory != "0":
            memory_bytes(self.memory, "--memory", ", or 0")
        for field, least in (("gpus_per_node", 0), ("cpus", 1), ("parallel", 1)):
            value = getattr(self, field)
            if value is not None and value < least:
                raise InputError(f"{flag_of(field)}: found {value}, expected at least {least}")
        for key, value in self._extra().items():
            if key in _FLAG_OF:
                raise InputError(f"--sbatch {key}={value}: there is a flag for it; expected {_FLAG_OF[key]}")
            if key in _OWN or not re.fullmatch(r"[a-z][a-z_]*", key):
                reason = "lenscore sets it itself" if key in _OWN else "not a name of an sbatch parameter"
                raise InputError(f"--sbatch {key}: {reason}; expected KEY=VALUE, as in exclude=n7")

    @property
    def minutes(self) -> int:
        """The time limit of an element."""
        return minutes_of(self.time) or DEFAULT_MINUTES

    @property
    def python_command(self) -> str:
        """Shell words that start Python on a node."""
        return self.python or shlex.quote(sys.executable)

    def given(self, request: WorkerRequest) -> dict[str, str]:
        """Returns the values of the flags by the names of their fields, "" for those not given."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values = {"workers": request.workers, "device": request.options.device, **fields}
        words = {name: shlex.join(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {name: "" if value is None else str(value) for name, value in words.items()}

    def elements(self, run: Path, request: WorkerRequest, missing: int | None) -> list[Element]:
        """Returns the array elements for a request, each with its own slice of the shards.

        Args:
            run: the run folder.
            request: the workers.
            missing: number of missing shards, which limits the number of workers; None before the run is planned.

        """
        workers, tasks = request.workers or DEFAULT_WORKERS, self._tasks(request)
        count = -(-(workers if missing is None else min(workers, max(missing, 1))) // tasks)
        options = dataclasses.replace(request.options, device=self.device(request))
        notice = _notice(self.minutes)
        return [Element(run, options, i * tasks, count * tasks, self.minutes, notice) for i in range(count)]

    def parameters(self, name: str, request: WorkerRequest, parallel: int | None) -> dict[str, Any]:
        """Returns the parameters of submitit for the batch script.

        Args:
            name: of the job.
            request: the workers.
            parallel: number of elements that may run at the same time; None for no limit.

        """
        gpus, tasks, extra, device = self._gpus(request), self._tasks(request), self._extra(), self.device(request)
        cpus = self.cpus or (1 if device == "cpu" else 4)
        environment = ["export TOKENIZERS_PARALLELISM=false"]
        if device == "cpu":
            # One thread a worker: the order of a sum, and so its last bit, depends on the number of threads.
            environment += ["export OMP_NUM_THREADS=1", "export MKL_NUM_THREADS=1"]
        chosen: dict[str, Any] = {
            "job_name": name,
            "partition": self.partition or None,
            "account": self.account or None,
            "qos": self.qos or None,
            "constraint": self.constraint or None,
            "time": self.minutes,
            "gpus_per_node": None if _GPU_PARAMETERS & extra.keys() else gpus or None,
            "ntasks_per_node": tasks,
            "cpus_per_task": cpus,
            "mem": self._memory(request, tasks),
            "signal_delay_s": _notice(self.minutes),
            "array_parallelism": parallel or 10**6,
            "wckey": None,  # submitit's default is refused where workload keys are checked
            # After the user's lines: the variables of a module must not change bytes.
            "setup": [f"export {STARTED}=$(date +%s)", *checked(self.setup), *environment],
            "teardown": autopsy(self.python_command),
            "srun_args": [f"--cpus-per-task={cpus}"],  # since 22.05 srun does not inherit it from sbatch
            "additional_parameters": {"requeue": True, **extra},  # some clusters disable it by default
        }
        return {key: value for key, value in chosen.items() if value is not None or key == "wckey"}

    def device(self, request: WorkerRequest) -> str:
        """Returns the device of the workers. With GPUs it is cuda, so that a worker without one fails at once.

        Raises InputError for a device that SLURM cannot provide.
        """
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
        # One worker a GPU, or one for all GPUs if the model is divided among them.
        return 1 if request.options.device == "spread" else max(1, self._gpus(request))

    def _memory(self, request: WorkerRequest, tasks: int) -> str:
        if self.memory == "0":
            return "0"
        size = memory_bytes(self.memory or ("32GB" if request.needs_device else "4GB"), "--memory")
        return f"{max(1, round(size / 2**20 * tasks))}M"

    def _extra(self) -> dict[str, str | bool]:
        pairs = (entry.removeprefix("--").partition("=") for entry in self.sbatch)
        # With underscores, like submitit's own parameters; else a parameter given twice would be written twice.
        return {key.strip().replace("-", "_"): value if equals else True for key, equals, value in pairs}


def _notice(minutes: int) -> int:
    return min(NOTICE_SECONDS, 5 * minutes)
