"""The interface of all stages: a plan, shards, and a worker that turns shards into receipts.

A job is a frozen dataclass that defines the work. Its fields are the flags of its command and the `config` of its run
folder. The state of the work is in the run folder only.
"""

from __future__ import annotations

import dataclasses
import importlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast, get_type_hints, runtime_checkable

from storage_layouts.errors import InputError
from storage_layouts.fields import shown
from storage_layouts.runs import Receipt, RunFolder, Shard

if TYPE_CHECKING:
    import pydantic


JOBS = {
    "extract": "ExtractJob",
    "analyze": "AnalyzeJob",
    "judge": "JudgeJob",
    "intervene": "InterveneJob",
    "sharpen": "SharpenJob",
    "train": "TrainJob",
    "tune": "TuneJob",
    "planning": "PlanningJob",
}
"""The job classes, by the name of the stage in run.json; module NAME_job of `jobs`."""
STATES = "state"
"""Folder in the run folder of a training, for what its next step depends on; the command deletes it at the end."""


class Progress(Protocol):
    """Reports the progress of a worker within its shard. Cheap: may be called after every batch or step."""

    def __call__(self, items: int, doing: str = "") -> None:
        """Report the number of computed items of the shard, and a short status such as "loss 2.31"."""


def no_progress(items: int, doing: str = "") -> None:
    """A `Progress` that does nothing."""


class Worker(Protocol):
    """Holds the objects that are expensive to load (model, index), and computes shards."""

    def run(self, shard: Shard, progress: Progress = no_progress) -> Receipt:
        """Write and flush the shard's data, and return its receipt. A repetition writes the same bytes."""


class Settings(Protocol):
    """The flags of a stage: a dataclass that the job of the stage extends, whose module loads no large library."""

    stage: ClassVar[str]
    needs_device: ClassVar[bool]
    """Whether a worker computes on a GPU if there is one; if not, one process per core can run anywhere."""

    def require_files(self) -> None:
        """Raises InputError for a file or folder that is not there, as far as this is seen without a library."""


class Job(Settings, Protocol):
    """One stage with one configuration."""

    shard_size: ClassVar[str]
    """Name of the field with the number of items per shard."""

    @property
    def plans_on(self) -> Literal["planned", "complete"]:
        """What the planning reads of the upstream runs: only their plans, or all of their data."""

    @property
    def out(self) -> Path:
        """The run folder to write."""

    @property
    def upstream(self) -> tuple[Path, ...]:
        """The runs that must be complete before the work starts."""

    def open_run(self) -> RunFolder:
        """Create the run folder, or resume the run of an earlier, equal command.

        The upstream runs must be planned, but need not be complete.
        """

    def plan(self, run: RunFolder, progress: Callable[[str], None]) -> None:
        """Decide and write everything that needs no model, unless the run has a plan."""

    def open_worker(self, run: RunFolder, device: str) -> Worker:
        """Load models and data onto one device."""


def job_class(stage: str) -> Any:
    """The class of the jobs of a stage. Its module is imported only here, because that takes seconds."""
    return getattr(importlib.import_module(f"jobs.{stage}_job"), JOBS[stage])


def job_from(settings: Settings) -> Job:
    """The job with these settings. InputError for settings that do not fit."""
    fields = dataclasses.fields(cast(Any, settings))
    return cast(Job, job_class(settings.stage)(**{field.name: getattr(settings, field.name) for field in fields}))


@runtime_checkable
class ChainJob(Protocol):
    """A job whose shards follow one another, besides being a `Job`: one worker at a time takes them in order."""

    is_chain: ClassVar[Literal[True]]


@runtime_checkable
class TreeJob(Protocol):
    """A job some of whose shards need the results of others, besides being a `Job`."""

    def ready(self, run: RunFolder) -> Callable[[Shard, set[int]], bool]:
        """Returns whether a shard can be computed when those with some indices are done."""


@runtime_checkable
class SharedPlanning(Protocol):
    """A job whose planning may be work for several workers, besides being a `Job`."""

    def planning(self, run: RunFolder) -> Job | None:
        """The job that plans a run, in a folder inside its own; None if it is planned, or by one process at once."""


@runtime_checkable
class ModelJob(Protocol):
    """A job each of whose workers loads a model, besides being a `Job`."""

    def worker_bytes(self) -> int | None:
        """Memory of a worker on a CPU; None if it is not known without loading the model."""


@runtime_checkable
class SearchingSettings(Protocol):
    """Those of a stage whose workers search a store.

    The job's `open_worker` and `worker_bytes` also take the bytes of it that a device may hold; None for what is free.
    """

    @property
    def searches_store(self) -> bool:
        """Whether they do with these settings."""


def open_worker(job: Job, run: RunFolder, device: str, index_memory: int | None) -> Worker:
    """Load models and data of a job onto a device that may hold so many bytes of a store; None for what is free."""
    memory = (index_memory,) if isinstance(job, SearchingSettings) else ()
    return cast(Worker, cast(Any, job).open_worker(run, device, *memory))


def memory_of_worker(job: Any, index_memory: int | None) -> int | None:
    """Memory of a job's worker on a CPU that holds so much of a store; None if it is not known, or small."""
    if not isinstance(job, ModelJob):
        return None
    return cast(Any, job).worker_bytes(index_memory) if isinstance(job, SearchingSettings) else job.worker_bytes()


@runtime_checkable
class ProbedJob(Protocol):
    """A job that is probed with other settings than smaller shards, besides being a `Job`."""

    def for_probe(self, out: Path) -> Job:
        """A job of seconds, with the items of this one, in another folder."""

    def data_bytes(self) -> int:
        """Bytes of the data of all shards."""


@runtime_checkable
class HubStoreSettings(Protocol):
    """Those of a stage that may name stores on the Hub, which only the command resolves, and no worker."""

    def with_local_store(self) -> Settings:
        """The same settings with the folder of each store, which is downloaded if it is not there."""


@runtime_checkable
class CopyingJob(Protocol):
    """A job that copies some of its items from earlier runs, besides being a `Job`."""

    def computed(self, run: RunFolder, shard: Shard) -> int:
        """Number of the shard's items that take time: those that are computed, or all if everything is copied."""


@runtime_checkable
class CostlyJob(Protocol):
    """A job that may do more for an item than its kind usually does, besides being a `Job`."""

    def extra_work(self) -> Mapping[str, str]:
        """What that is, in words, for --plan, by the name of what asks for it; {} if there is nothing."""


@runtime_checkable
class PaidJob(Protocol):
    """A `Job` that may spend money."""

    def check_terms(self) -> None:
        """Raises InputError, before any work, if it would spend money without a limit or a key."""

    def bill(self, run: RunFolder) -> list[Any]:
        """Costs of the missing shards, as objects with ``dollars`` and ``worst``; [] if there are none."""


def begun_run(out: Path, stage: str | None = None) -> RunFolder | None:
    """The run that a folder already holds. InputError if it is one of another stage."""
    return RunFolder.open(out, stage) if (out / "run.json").exists() else None


def require_seed(seed: int) -> None:
    """Raises InputError for a --seed that is negative or does not fit into a signed 64-bit integer."""
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed: found {seed}, expected 0 to {2**63 - 1}")


def require_cover(cover: float) -> None:
    """Raises InputError for a --cover that is no part of a patch."""
    if not 0 < cover <= 1:
        raise InputError(f"--cover: found {cover}, expected above 0 and at most 1")


def require_positive(job: object, *fields: str) -> None:
    """Raises InputError, naming the flag, if one of the job's numbers is below 1; None (not given) is valid."""
    for field in fields:
        value = getattr(job, field)
        if value is not None and value < 1:
            raise InputError(f"--{field.replace('_', '-')}: found {value}, expected at least 1")


def recorded_settings(job: Any, added_later: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    """The configuration for run.json: all fields of a job but ``out``, with absolute paths.

    Args:
        job: a dataclass.
        added_later: defaults of fields that older versions did not have. They are left out at their default, so that
            older runs stay valid.
        changed: values to record instead of those of the job.

    """
    settings = dataclasses.asdict(job) | changed
    left_out = {"out", *(name for name, default in added_later.items() if settings[name] == default)}
    return {
        name: list(map(_absolute, value)) if isinstance(value, tuple) else _resolved(value)
        for name, value in settings.items()
        if name not in left_out
    }


def command_line(job: Job, config: Mapping[str, Any] | None = None) -> str:
    """The command of a run: the flags that differ from the defaults, with absolute paths, quoted for a shell.

    Texts and lists are taken from ``config`` if it has them, because the names of models and data are absolute there.
    """
    words = ["lens", job.stage]
    for flag, value, text in _flags_that_differ(job):
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            words += [f"--{flag}", *map(_absolute, (config or {}).get(text, value))]
        else:
            # As one word, because a value that begins with "-" would be parsed as a flag.
            known = (config or {}).get(text) if isinstance(value, str) else None
            words.append(f"--{flag}={known if isinstance(known, str) else _absolute(value)}")
    return shlex.join(words)


def _resolved(value: Any) -> Any:
    return str(value.resolve()) if isinstance(value, Path) else value


def _absolute(value: Any) -> str:
    return str(_resolved(value))


def _flags_that_differ(settings: Any) -> Iterator[tuple[str, Any, str]]:
    """Flag, value and name of the fields that differ from their default, also in nested settings."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flags_that_differ(value)
        elif value != field.default and value is not None:
            yield field.name.replace("_", "-"), value, field.name


def unknown_fields(settings: type, config: Mapping[str, Any]) -> Iterator[str]:
    """Names in ``config`` that are not fields of the dataclass, or of one nested in it (with a dot)."""
    kinds = get_type_hints(settings)
    names = {field.name for field in dataclasses.fields(settings)}
    for name, value in config.items():
        if name not in names:
            yield name
        elif dataclasses.is_dataclass(kinds[name]) and isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in unknown_fields(kinds[name], value))


def validation_error(error: pydantic.ValidationError) -> str:
    """The first field with an invalid value, the value, and what is expected."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place} = {shown(first['input'])}: {first['msg'][0].lower()}{first['msg'][1:]}"
