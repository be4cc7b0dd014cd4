"""`lens pipeline --config FILE`: extract, tune, analyze, judge and report for a list of models and corpora."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from jobs.tune_settings import TuneSettings
from launch import report, tune
from launch.clusters.cluster import Submission
from launch.exit_codes import exit_code, refusal_code
from launch.flags import parse
from launch.pipeline_file import EXAMPLE, Pipeline, Stage, read_pipeline
from launch.pipeline_plan import show_plan
from launch.progress import StageProgress
from launch.run_workers import plan_if_possible, plan_together, submit, wait
from launch.stage_summary import failure
from launch.stages import Launch, open_to_go_on, run_stage
from launch.terminal import Terminal, print_out, print_plain
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder


@dataclass(frozen=True)
class PipelineCommand:
    """Run all stages for every model and corpus of a file; repeating the command computes only what is missing."""

    config: Path
    """YAML file of models, corpora, images and settings; --print-config prints an example."""
    launch: Launch = field(default_factory=Launch)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 complete, 1 incomplete, 2 refused."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--print-config" in arguments:
        print_out(EXAMPLE.rstrip())
        return 0

    def run() -> int:
        command = parse(PipelineCommand, arguments, "lens pipeline")
        pipeline = read_pipeline(command.config, _without_config(arguments))
        console = Terminal(stderr=True)
        if command.launch.plan:
            return show_plan(pipeline)
        if any(stage.launch.chosen().queues for chain in pipeline.chains for stage in chain):
            return _as_one_queue(pipeline, console)
        return _in_turn(pipeline, console)

    return exit_code(run, goes_on=True)


def _without_config(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments without --config and its value."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser.parse_known_args(arguments)[1]


def _in_turn(pipeline: Pipeline, console: Console) -> int:
    """Run one stage after the other. After a failure the other chains still run."""
    worst = 0
    for chain in pipeline.chains:
        for stage in chain:
            code = refusal_code(partial(run_stage, stage.job, stage.launch, console, stage.title))
            worst = max(worst, code)
            if code:
                break
            _finish(stage)
    return worst or (_report(pipeline) if pipeline.has_results else 0)


def _as_one_queue(pipeline: Pipeline, console: Console) -> int:
    """Queue all stages at once, each behind the jobs of the one before; then wait, and queue what is still missing."""
    launch = pipeline.launch
    refused: list[str] = []
    with StageProgress(console, "pipeline") as progress:
        unused = (words for stage in pipeline.chains[0] for words in stage.launch.without_effect(stage.job))
        for words in dict.fromkeys(unused):
            progress.note(words)
        for _ in range(launch.rounds):
            queued, refused = _queue(pipeline, progress)
            if launch.detach:
                break
            for submission, run in queued:
                try:
                    wait(submission, run, progress)
                except InputError as refusal:
                    refused.append(str(refusal))
            if refused or not queued:
                break
        if launch.detach and not refused and pipeline.has_results:
            _queue_report(pipeline, progress)
    for message in refused:
        print_plain(console, f"error: {message}", "red")
    if refused or launch.detach:
        return 2 if refused else 0
    last = [(chain[-1].title, RunFolder.open(chain[-1].folder)) for chain in pipeline.chains]
    incomplete = [(title, run) for title, run in last if not run.is_complete()]
    for title, run in incomplete:
        print_plain(console, failure(run, title, []), "red")
    for stage in (stage for chain in pipeline.chains for stage in chain):
        _finish(stage)
    return 1 if incomplete else _report(pipeline) if pipeline.has_results else 0


def _finish(stage: Stage) -> None:
    """What the stage's own command does at its end."""
    if isinstance(stage.job, TuneSettings) and (run := RunFolder.open(stage.folder)).is_complete():
        tune.finish(run)


def _queue(pipeline: Pipeline, progress: StageProgress) -> tuple[list[tuple[Submission, RunFolder]], list[str]]:
    """Queue the missing shards of every chain. Returns the submissions with their runs, and error messages."""
    queued, refused = [], []
    for chain in pipeline.chains:
        runs: dict[Path, RunFolder] = {}
        try:
            for stage in chain:
                runs[stage.folder.resolve()] = run = open_to_go_on(stage.job, stage.launch)
                with run.withdrawn_if_refused():
                    inputs = [runs[path.resolve()] for path in stage.job.upstream if path.resolve() in runs]
                    before = [one for one in inputs if not one.is_complete()]
                    planning, logs = plan_together(
                        stage.job, run, replace(stage.launch, detach=False), before, progress
                    )
                    if planning:
                        raise InputError(failure(planning[0], "planning", logs))
                    plan_if_possible(stage.job, run, before, partial(_about, progress.say, stage))
                    if run.unfinished():
                        note = partial(_about, progress.note, stage)
                        queued.append((submit(stage.job, run, stage.launch, before, note), run))
        except InputError as refusal:
            refused.append(f"{stage.title}: {refusal}")
    return queued, refused


def _about(show: Callable[[str], None], stage: Stage, message: str) -> None:
    show(f"{stage.title}: {message}")


def _queue_report(pipeline: Pipeline, progress: StageProgress) -> None:
    """Queue the report behind the last stages."""
    last = [RunFolder.open(chain[-1].folder) for chain in pipeline.chains]
    folder = pipeline.report.parent / "submissions"
    cluster = pipeline.launch.chosen()
    label = cluster.submit_function("lens-report", folder, report.main, _report_flags(pipeline), last)
    progress.note(
        f"submitted {label} for the report behind them; to watch them: lens status {pipeline.report.parent} --watch"
    )


def _report(pipeline: Pipeline) -> int:
    return report.in_own_process(_report_flags(pipeline))


def _report_flags(pipeline: Pipeline) -> list[str]:
    runs = [str(chain[-1].folder) for chain in pipeline.chains]
    more = [] if pipeline.max_images is None else ["--max-images", str(pipeline.max_images)]
    return [*runs, "--out", str(pipeline.report), *more]


if __name__ == "__main__":
    sys.exit(main())
