"""Run a stage: open its run, plan it, and start workers for the missing shards until none is left.

Only the receipts in the run folder say what is done; the state of the jobs only says when to check them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from jobs.base import (
    HubStoreSettings,
    Job,
    PaidJob,
    SearchingSettings,
    Settings,
    job_from,
    memory_of_worker,
    require_positive,
)
from jobs.heartbeat import Heartbeat
from jobs.unchanged_inputs import RepeatableSettings, completed_before, remember_inputs
from jobs.work import STALE_AFTER_SECONDS
from jobs.worker import WorkerOptions
from launch.clusters.choice import CLUSTERS, ClusterChoice
from launch.clusters.cluster import WorkerRequest
from launch.exit_codes import exit_code
from launch.flag_values import flag_of
from launch.flags import parse
from launch.memory_sizes import memory_bytes
from launch.progress import StageProgress, money
from launch.run_workers import incomplete, plan_if_possible, plan_together, start_workers
from launch.stage_summary import completed, failure, missing_answers, sinks, skipped_images, useless
from launch.terminal import Terminal, print_out, print_plain
from launch.upstream import wait_until_complete
from lenscore.contexts.named_corpora import paths_of
from storage_layouts.errors import InputError
from storage_layouts.files import require_place
from storage_layouts.processes import unique_name
from storage_layouts.runs import RunFolder

if TYPE_CHECKING:
    from launch.estimate import PlanEstimate

MAY_BE_FOLDERS = {"model", "llm", "vision", "start_from", "data"}
"""Fields of jobs that hold a path or the name of a Hub model or dataset."""


@dataclass(frozen=True)
class Launch(ClusterChoice):
    """Where a stage runs, and with how many workers. On one kind of device the result has the same bytes."""

    workers: int | None = None
    """Worker processes; by default one for each GPU or core (local, ray), or 8 (slurm). Without a GPU the local default
    is bounded by the memory that is free."""
    device: Literal["auto", "cpu", "cuda", "mps", "spread"] = "auto"
    """What the workers compute on; auto takes CUDA where there is a GPU, else the CPU; spread divides the model among
    all GPUs of a worker."""
    index_memory: str = ""
    """Memory of each device of a worker for the rows of a store, as in 20GB; by default what is free. Rows beyond it
    are read again for each group of images, with the same results."""
    rounds: int = 3
    """How often workers are started for shards that are still missing."""
    stale_after: float = STALE_AFTER_SECONDS
    """Seconds without a heartbeat after which a worker's shards are computed by others."""
    retry_failed: bool = False
    """Try quarantined shards again: those that have failed three times."""
    plan: bool = False
    """Print what would be done (shards, time, bytes, the sbatch text), and do nothing."""
    rate_of: Path | None = None
    """With --plan: an earlier run to take the rate from; by default a short probe on this machine."""
    after: tuple[Path, ...] = ()
    """Runs to wait for: the work starts when they are complete (slurm: it is queued behind their jobs)."""
    detach: bool = False
    """Exit when the jobs are queued (slurm); repeat the command to wait for them, or use lens status."""

    def __post_init__(self) -> None:
        """Raises InputError for values that no launch can use."""
        require_positive(self, "workers", "rounds")
        if not self.stale_after > 0:
            raise InputError(f"--stale-after: found {self.stale_after}, expected a number of seconds above 0")
        _ = self._index_bytes

    def request(self, job: Settings) -> WorkerRequest:
        """Returns the requested workers."""
        after = tuple(path.resolve() for path in self.after)
        options = WorkerOptions(self.device, self.stale_after, after, self._index_bytes)
        memory = partial(memory_of_worker, job, self._index_bytes)
        return WorkerRequest(self.workers, job.needs_device, options, _paths(job) | _paths(self), memory)

    @property
    def _index_bytes(self) -> int | None:
        return memory_bytes(self.index_memory, "--index-memory") if self.index_memory else None

    def prepare(self, settings: Settings) -> None:
        """Start what takes as long as the import of the job with these settings, which comes next."""
        if not self.plan:
            self.chosen().prepare(settings.stage, self.device if settings.needs_device else None)

    def without_effect(self, job: Settings) -> list[str]:
        """Returns the flags that this launch does not use, with the reason."""
        found = []
        for other in self.others():
            flags = [flag_of(item.name) for item in fields(other) if getattr(other, item.name) != item.default]
            if flags:
                found.append(
                    f"{', '.join(flags)} had no effect: for --cluster {other.name}, and this is {self.cluster}"
                )
        found += self.chosen().without_effect(self.request(job))
        if self.index_memory and not (isinstance(job, SearchingSettings) and job.searches_store):
            found.append("--index-memory had no effect: no store is searched")
        if self.rate_of is not None and not self.plan:
            found.append("--rate-of had no effect: it is for --plan")
        return found


def stage_command(
    settings: type[Settings],
    argv: Sequence[str] | None,
    completed: Callable[[list[str]], list[str]] = lambda words: words,
) -> int:
    """Run the command line of a stage, whose flags are its settings and those of `Launch`; returns the exit code.

    `completed` as in `launch.flags.parse`.
    """

    def run() -> int:
        return run_unless_known(parse(command_of(settings), argv, f"lens {settings.stage}", completed))

    return exit_code(run, goes_on=True)


def command_with_end(
    settings: type[Settings],
    argv: Sequence[str] | None,
    finish: Callable[[RunFolder], None],
    launch: type[Launch] = Launch,
) -> int:
    """Run the command line of a stage; `finish` adds to its complete run, also if it was complete before."""

    def run() -> int:
        command: Any = parse(command_of(settings, launch), argv, f"lens {settings.stage}")
        code = run_unless_known(command)
        if code == 0 and not command.launch.plan:
            finished = RunFolder.open(command.settings.out)
            if finished.is_complete():
                finish(finished)
        return code

    return exit_code(run, goes_on=True)


def run_unless_known(command: Any) -> int:
    """Run a stage, whose job is not even imported if its run is complete and its inputs are known to be unchanged."""
    command = _with_local_store(command)
    given, launch = command.settings, command.launch
    if not launch.plan and isinstance(given, RepeatableSettings) and (known := completed_before(given)):
        console = Terminal(stderr=True)
        _say_without_effect(command.settings, launch, console, given.stage)
        _check_again(known)
        return _result(known, console, given.stage)
    return run_stage(job_of(command), launch)


def _with_local_store(command: Any) -> Any:
    if not isinstance(command.settings, HubStoreSettings):
        return command
    return replace(command, settings=command.settings.with_local_store())


def job_of(command: Any) -> Job:
    """Returns the job of a parsed command line, after a look for its files, which costs much less than the job."""
    settings, launch = command.settings, command.launch
    if not (settings.out / "run.json").exists():
        require_place(settings.out)
        if launch.cluster != "local" and not launch.plan:  # where a path that is right here may not be there
            launch.chosen().check(launch.request(settings))
    settings.require_files()
    launch.prepare(settings)
    return job_from(settings)


def command_of(settings: type[Settings], launch: type[Launch] = Launch) -> type:
    """Returns a dataclass with two fields, `settings` and `launch`, for the command line of a stage."""
    parts: list[Any] = [("settings", settings), ("launch", launch, field(default_factory=launch))]
    command = make_dataclass("Command", parts, frozen=True)
    command.__doc__ = settings.__doc__
    return command


def run_stage(job: Job, launch: Launch, console: Console | None = None, title: str = "") -> int:
    """Run a job until it is complete. Finished shards are not computed again.

    Workers that die are replaced in the next round; errors are shown with their logs.

    Args:
        job: the stage and its settings.
        launch: the cluster and the number of rounds.
        console: for progress and messages; by default stderr.
        title: prefix of progress lines; by default the stage.

    Returns:
        The exit code: 0 if complete (or queued, with --detach), 1 if incomplete.

    """
    console, title = console or Terminal(stderr=True), title or job.stage
    began = time.time_ns()
    _say_without_effect(job, launch, console, title)
    if launch.plan:
        return _show_plan(job, launch, title)
    with StageProgress(console, title) as progress:
        progress.say("checking the inputs")
        run = open_to_go_on(job, launch)
    logs: list[Path] = []
    if run.unfinished():
        beat = Heartbeat(run, f"launcher-{unique_name()}", launch.stale_after, role="launcher")
        with run.withdrawn_if_refused(), beat:
            upstream = _upstream(job, launch)
            with StageProgress(console, title) as progress:
                for other in upstream if not launch.chosen().queues else []:
                    wait_until_complete(other, launch.stale_after, progress.say)
            with StageProgress(console, f"{title}, planning") as progress:
                planning, logs = plan_together(job, run, launch, upstream, progress)
            if planning and not launch.detach:
                print_plain(console, failure(planning[0], f"{title}, planning", logs), "red")
                return 1
            with StageProgress(console, title) as progress:
                if not planning:
                    plan_if_possible(job, run, upstream, progress.say)
                for line in run.plan.facts.get("notes", []) if run.plan else []:
                    progress.note(line)
                logs = start_workers(job, run, launch, [*incomplete(upstream), *planning], progress)
                if launch.detach and run.unfinished():
                    progress.note(f"queued; to watch: lens status {run.path} --watch")
                    return 0
        if run.is_complete():
            run.remove_leftovers()
    elif run.is_complete():
        _check_again(run)
    if run.plan is None or run.missing():
        print_plain(console, failure(run, title, logs), "red")
        return 1
    code = _result(run, console, title)
    if isinstance(job, RepeatableSettings):
        remember_inputs(run, job, began)
    return code


def _say_without_effect(settings: Settings, launch: Launch, console: Console, title: str) -> None:
    for words in launch.without_effect(settings):
        print_plain(console, f"{title}: {words}", "yellow")


def _check_again(run: RunFolder) -> None:
    """Raises CorruptError if a file of a complete run is missing, has another size or belongs to another plan."""
    run.remove_leftovers()  # if no command has seen it complete
    run.check_sizes()
    for name in run.require_plan().files:
        run.read_plan_file(name)


def _result(run: RunFolder, console: Console, title: str) -> int:
    """Print what a complete run holds; returns the exit code, 1 if it is of no use."""
    for line in [*skipped_images(run), *sinks(run, title), *missing_answers(run)]:
        print_plain(console, line, "yellow")
    if reason := useless(run):
        print_plain(console, f"{title}: failed: {reason}{money(run)}: {run.path}", "red")
        return 1
    print_plain(console, f"{title}: complete, {completed(run)}{money(run)}: {run.path}")
    return 0


def open_to_go_on(job: Job, launch: Launch) -> RunFolder:
    """Open or create a run, with its quarantined shards if requested, and check the cluster if work is left."""
    if launch.detach and not launch.chosen().queues:
        queues = " or ".join(cluster.name for cluster in CLUSTERS if cluster.queues)
        raise InputError(f"--detach: workers of --cluster {launch.cluster} end with this command; expected {queues}")
    if isinstance(job, PaidJob):
        job.check_terms()
    is_new = not (job.out / "run.json").exists()
    if is_new:  # before the folder is created
        require_place(job.out)
        launch.chosen().check(launch.request(job))
    run = job.open_run()
    if launch.retry_failed:
        run.retry_failed()
    if not is_new and run.unfinished():
        launch.chosen().check(launch.request(job))
    return run


def _paths(settings: Any) -> dict[str, Path]:
    """Returns the paths among the fields of a dataclass and of nested ones, by their flags."""
    found: dict[str, Path] = {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value):
            found |= _paths(value)
        for one in value if isinstance(value, tuple) else (value,):
            path = one
            if item.name == "corpus":
                path = next(iter(paths_of([one])), None)
            elif item.name in MAY_BE_FOLDERS:
                path = _path_in(one)
            if isinstance(path, Path):
                found[f"{flag_of(item.name)} {path}"] = path
    return found


def _path_in(name: str) -> Path | None:
    """Returns the path that a text names; None for a name of the Hub, as OWNER/NAME or hf:NAME."""
    path = Path(name)
    is_path = name.startswith((".", "~")) or len(path.parts) > 2 or path.exists()
    return path if name and is_path and ":" not in name else None


def _upstream(job: Job, launch: Launch) -> list[RunFolder]:
    """Returns the runs of --after. Raises IncompleteError if another upstream run is not complete."""
    after = [path.resolve() for path in launch.after]
    for path in job.upstream:
        if path.resolve() not in after:
            RunFolder.open(path).require_complete()
    return [RunFolder.open(path) for path in after]


def estimate_of(job: Job, launch: Launch) -> PlanEstimate:
    """Returns the estimate of `--plan`; errors as in `launch.estimate.estimate`."""
    from launch.estimate import estimate

    cluster, request = launch.chosen(), launch.request(job)
    workers = launch.workers or cluster.default_workers(request)
    memory = request.options.index_memory
    found = estimate(job, workers, launch.device, launch.rate_of, Terminal(stderr=True), memory)
    return replace(found, fewer_workers=cluster.fewer_workers(request, found.missing))


def _show_plan(job: Job, launch: Launch, title: str) -> int:
    from launch.estimate import estimate_table

    found = replace(estimate_of(job, launch), stage=title)
    Terminal().print(estimate_table(found))
    if text := launch.chosen().plan_text(job.stage, launch.request(job), found.missing, job.out):
        print_out(text)
    return 0
