"""What every stage has in common: a plan, shards, and a worker that turns shards into receipts.

A job is a frozen dataclass: all that defines the work, so the flags of its command and the `config` of its run
folder. Truth lives in the run folder.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_type_hints, runtime_checkable

from storage_layouts.errors import InputError
from storage_layouts.fields import shown
from storage_layouts.runs import Receipt, RunFolder, Shard

if TYPE_CHECKING:
    import pydantic


class Progress(Protocol):
    """Takes how far a worker is within its shard. Cheap, so it may be called after every batch or step."""

    def __call__(self, items: int, doing: str = "") -> None:
        """How many items of the shard are computed, and what else is worth knowing, as in "loss 2.31"."""
        ...


def untold(items: int, doing: str = "") -> None:
    """A `Progress` that tells nobody."""


class Worker(Protocol):
    """Holds what is expensive to open (model, index) and computes one shard after the other."""

    def run(self, shard: Shard, progress: Progress = untold) -> Receipt:
        """Write the shard's data, fsynced, and return what was written. Doing it twice gives the same bytes."""
        ...


class Job(Protocol):
    """One stage with one configuration."""

    stage: ClassVar[str]
    needs_device: ClassVar[bool]
    """Whether a worker computes on a GPU where there is one; if not, one process a core will do anywhere."""
    plans_on: ClassVar[Literal["planned", "complete"]]
    """What the plan needs of the upstream runs: their plans, or all of their data."""
    shard_size: ClassVar[str]
    """Name of the field that says how many items a shard has."""

    @property
    def out(self) -> Path:
        """The run folder to write."""
        ...

    @property
    def upstream(self) -> tuple[Path, ...]:
        """The runs that must be complete before the work starts."""
        ...

    def open_run(self) -> RunFolder:
        """Create the run folder, or take up the one that an earlier, equal command made.

        The upstream runs must be planned, but need not be complete.
        """
        ...

    def plan(self, run: RunFolder, progress: Callable[[str], None]) -> None:
        """Decide everything that needs no model, and write it; nothing happens if a plan is there."""
        ...

    def open_worker(self, run: RunFolder, device: str) -> Worker:
        """Load models and data onto one device."""
        ...


@runtime_checkable
class ChainJob(Protocol):
    """A job whose shards follow one another, besides being a `Job`: one worker at a time takes them in order."""

    is_chain: ClassVar[Literal[True]]


@runtime_checkable
class PaidJob(Protocol):
    """A job that may spend money, besides being a `Job`."""

    def check_terms(self) -> None:
        """InputError, before anything is started, if it would spend money without a limit or without a key."""
        ...

    def bill(self, run: RunFolder) -> list[Any]:
        """What the missing shards would cost, in parts that have ``dollars`` and ``worst``; [] if nothing."""
        ...


def require_seed(seed: int) -> None:
    """Raises InputError for a --seed that does not fit into 64 bits with a sign, or is below 0."""
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed: found {seed}, expected 0 to {2**63 - 1}")


def require_positive(job: object, *fields: str) -> None:
    """Raises InputError, naming the flag, if one of the job's numbers is below 1; None (not given) is fine."""
    for field in fields:
        value = getattr(job, field)
        if value is not None and value < 1:
            raise InputError(f"--{field.replace('_', '-')}: found {value}, expected at least 1")


def command_line(job: Job, config: Mapping[str, Any] | None = None) -> str:
    """The command that makes a run: its flags that differ from the defaults, paths absolute, quoted for a shell.

    Texts are taken from ``config``, where it has them: there the names of models and data are absolute too.
    """
    words = ["lens", job.stage]
    for flag, value, text in _flags_that_differ(job):
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            words += [f"--{flag}", *map(_absolute, value)]
        else:
            # As one word, or a value that begins with "-" would be taken for a flag.
            known = (config or {}).get(text) if isinstance(value, str) else None
            words.append(f"--{flag}={known if isinstance(known, str) else _absolute(value)}")
    return shlex.join(words)


def _absolute(value: Any) -> str:
    return str(value.resolve()) if isinstance(value, Path) else str(value)


def _flags_that_differ(settings: Any) -> Iterator[tuple[str, Any, str]]:
    """Flag, value and name of the fields that are not at their default; those of nested settings too."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flags_that_differ(value)
        elif value != field.default and value is not None:
            yield field.name.replace("_", "-"), value, field.name


def unknown_fields(settings: type, config: Mapping[str, Any]) -> Iterator[str]:
    """Names in ``config`` that are no fields of the dataclass, or of one nested in it (with a dot)."""
    kinds = get_type_hints(settings)
    names = {field.name for field in dataclasses.fields(settings)}
    for name, value in config.items():
        if name not in names:
            yield name
        elif dataclasses.is_dataclass(kinds[name]) and isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in unknown_fields(kinds[name], value))


def validation_error(error: pydantic.ValidationError) -> str:
    """The first field that does not fit a dataclass, what was found there and what is expected."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place} = {shown(first['input'])}: {first['msg'][0].lower()}{first['msg'][1:]}"
