"""Two commands with different settings and the same folder, started within milliseconds: does exactly one complete?

    python -m benchmarks.two_commands --pairs 50 --seed 0

Both commands of a pair run the same stage (extract, analyze, judge or train) and start a few milliseconds apart. Random
pauses before and within the planning of each, and around `RunFolder.settle`, make either of them faster. One command
has to complete, and `lens verify` has to find nothing bad; the other has to end with the table of the differing
settings and exit code 2, and must leave nothing in the folder. `--real` runs more pairs through the command line.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import multiprocessing
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from jobs.analyze_job import AnalyzeJob
from jobs.base import Job, command_line
from jobs.extract_job import ExtractJob
from jobs.judge_job import JudgeJob
from jobs.train_job import TrainJob
from jobs.work import work
from launch.clusters.cluster import Cluster, Submission, WorkerRequest
from launch.exit_codes import exit_code
from launch.stages import Launch, run_stage
from lenscore import shapes
from storage_layouts.runs import RunFolder
from storage_layouts.verification import verify
from tests.synthetic_run import make_results
from tests.training_parts import save_encoder, save_llm

STAGES = {"extract": 20, "analyze": 10, "judge": 16, "train": 4}  # how often of 50
SPAWN = multiprocessing.get_context("spawn")


@dataclasses.dataclass(frozen=True)
class Pauses:
    """Seconds that a command waits: before its start, before and within its planning, around `RunFolder.settle`."""

    start: float
    before: float
    within: float
    around: float


class Here(Cluster, Submission):
    """A cluster with this process as its only worker; it is also its submission."""

    name = "here"
    label = "this process"

    def __init__(self, job: Job) -> None:
        self._job = job
        self._run: RunFolder | None = None

    def check(self, request: WorkerRequest) -> None:
        """Does nothing."""

    def default_workers(self, request: WorkerRequest) -> int:
        """Returns 1."""
        return 1

    def submit(self, run: RunFolder, request: WorkerRequest, after: Sequence[RunFolder] = ()) -> Here:
        """Remember the run; `wait` computes it."""
        self._run = run
        return self

    def wait(self, watch: Callable[[], None]) -> list[Path]:
        """Compute the shards."""
        run = self._run
        assert run is not None
        report = work(run, lambda: self._job.open_worker(run, "cpu"), f"worker-{time.monotonic_ns()}")
        assert not report.exit_code, report
        return []


def _command(orders: Any, answers: Any, barrier: Any) -> None:
    """Run commands from a queue, each after a barrier; the main function of each of the two processes."""
    while (order := orders.get()) is not None:
        job, pauses = order
        here = Here(job)
        settle, plan = RunFolder.settle, type(job).plan

        def slow_plan(job: Any, run: RunFolder, say: Any, plan: Any = plan, pauses: Pauses = pauses) -> None:
            time.sleep(pauses.before)

            def slow_say(message: str) -> None:
                say(message)
                time.sleep(pauses.within)

            plan(job, run, slow_say)

        def slow_settle(run: RunFolder, settle: Any = settle, pauses: Pauses = pauses) -> None:
            time.sleep(pauses.around)
            settle(run)
            time.sleep(pauses.around)

        said = io.StringIO()
        barrier.wait()
        time.sleep(pauses.start)
        with (
            mock.patch.object(RunFolder, "settle", slow_settle),
            mock.patch.object(type(job), "plan", slow_plan),
            mock.patch.object(Launch, "chosen", lambda self, here=here: here),
            contextlib.redirect_stderr(said),
        ):
            code = exit_code(lambda job=job: run_stage(job, Launch()))
        answers.put((command_line(job), code, said.getvalue()))


def jobs_of(folder: Path, dice: Random) -> dict[str, Callable[[], tuple[Job, Job]]]:
    """Returns for every stage a function that makes two jobs with different settings and durations."""
    lines = shapes.corpus_path().read_text().splitlines()
    corpora = {size: folder / f"{size}.txt" for size in (5, 40, 400)}
    for size, path in corpora.items():
        path.write_text("\n".join(lines[:size]))
    pictures = {count: folder / f"pictures-{count}" for count in (1, 2, 4)}
    for count, path in pictures.items():
        shapes.write_images(path, "train", count)
    results = make_results(folder / "results").path
    save_llm("llama", folder / "llm")
    save_encoder("clip", folder / "encoder")
    model, out = str(shapes.model_path()), Path("out")

    def two(values: Sequence[Any]) -> list[Any]:
        return dice.sample(list(values), 2)

    def extract() -> tuple[Job, Job]:
        if dice.random() < 0.5:
            return tuple(ExtractJob(model, (corpora[size],), out, rows_per_shard=64) for size in two(corpora))
        return tuple(ExtractJob(model, (corpora[40],), out, per_token=per_token) for per_token in two((1, 2, 3, 4)))

    def analyze() -> tuple[Job, Job]:
        jobs = [AnalyzeJob(model, pictures[count], out, lenses="logit", layers="0,4") for count in two(pictures)]
        return tuple(dataclasses.replace(job, self_test=False) for job in jobs)

    def judge() -> tuple[Job, Job]:
        return tuple(JudgeJob(results, out, patches=patches) for patches in two((3, 9, 30, 70)))

    def train() -> tuple[Job, Job]:
        parts, rest = (str(folder / "llm"), str(folder / "encoder")), {"steps": 1, "vit_layers": "-2"}
        return tuple(TrainJob(*parts, str(pictures[count]), out, **rest) for count in two((2, 4)))

    return {"extract": extract, "analyze": analyze, "judge": judge, "train": train}


def snapshot(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def faults(out: Path, ended: Sequence[tuple[str, int, str]]) -> list[str]:
    """Returns the faults of a pair, given the command, the exit code and the error output of each."""
    if sorted(code for _, code, _ in ended) != [0, 2]:
        return [f"exit codes {[code for _, code, _ in ended]}: {ended}"]
    (winner, _, _), (_, _, words) = sorted(ended, key=lambda one: one[1])
    found = []
    if "belongs to another run" not in words or "| in the folder" not in words or words.count("\n") < 3:
        found.append(f"the loser said: {words}")
    if "corrupt" in words.lower() or "crc32" in words:
        found.append(f"the loser said: {words}")
    run = RunFolder.open(out)
    if not run.is_complete() or verify(out).problems:
        found.append(f"not whole: {verify(out).problems}")
    if run.created["command"] != winner:
        found.append(f"made by {run.created['command']}, but {winner} ended well")
    left = [name for name in snapshot(out) if name.endswith(".partial") or name.startswith(("planning", "heartbeats/"))]
    return [*found, *(f"left behind: {name}" for name in left)]


def try_pairs(folder: Path, pairs: int, seed: int, stages: Sequence[str] = tuple(STAGES)) -> dict[str, Any]:
    """Run pairs of commands; returns counts of the commands that completed, and the faults."""
    dice, barrier = Random(seed), SPAWN.Barrier(2)
    made = jobs_of(folder, dice)
    orders, answers = [SPAWN.Queue(), SPAWN.Queue()], SPAWN.Queue()
    processes = [SPAWN.Process(target=_command, args=(order, answers, barrier), daemon=True) for order in orders]
    for process in processes:
        process.start()
    won: Counter[str] = Counter()
    wrong: list[str] = []
    try:
        for number in range(pairs):
            stage = dice.choices(stages, [STAGES[name] for name in stages])[0]
            out = folder / f"out-{number}"
            two = [dataclasses.replace(job, out=out) for job in made[stage]()]
            pauses = [
                Pauses(dice.uniform(0, 0.005), *(dice.choice((0, dice.uniform(0, most))) for most in (0.4, 0.2, 0.05)))
                for _ in two
            ]
            for order, job, pause in zip(orders, two, pauses, strict=True):
                order.put((job, pause))
            ended = [answers.get(timeout=300) for _ in two]
            wrong += [f"pair {number}, {stage}: {fault}" for fault in faults(out, ended)]
            won[stage] += 1
            first = command_line(two[0])
            won["first of the two"] += any(code == 0 and command == first for command, code, _ in ended)
            slower = max(two, key=lambda job: sum(dataclasses.astuple(pauses[two.index(job)])))
            won["longer pauses"] += any(code == 0 and command == command_line(slower) for command, code, _ in ended)
    finally:
        for order in orders:
            order.put(None)
        for process in processes:
            process.join(30)
    return {"pairs": pairs, "counts": dict(won), "wrong": wrong}


def try_real_pairs(folder: Path, pairs: int, seed: int) -> dict[str, Any]:
    """Run pairs of `lens` commands in separate processes, with a pause only at the start."""
    dice = Random(seed)
    made = jobs_of(folder, dice)
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    for number in range(pairs):
        stage = list(STAGES)[number % len(STAGES)]
        out = folder / f"real-{number}"
        two = [dataclasses.replace(job, out=out) for job in made[stage]()]
        processes = []
        for job in two:
            words = shlex.split(command_line(job))[1:]
            command = [sys.executable, "-m", "launch.cli", *words, "--workers", "1", "--device", "cpu"]
            processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
            time.sleep(dice.uniform(0, 0.005))
        errors = [process.communicate(timeout=600)[1] for process in processes]
        ended = [(command_line(two[i]), processes[i].returncode, errors[i]) for i in range(2)]
        wrong += [f"real pair {number}, {stage}: {fault}" for fault in faults(out, ended)]
        counts[stage] += 1
        counts["first of the two"] += ended[0][1] == 0
    return {"real pairs": pairs, "counts": dict(counts), "wrong": wrong}


def main() -> int:
    """Print the results as JSON; returns 1 if there were faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--real", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        found = try_pairs(Path(name), arguments.pairs, arguments.seed)
    if arguments.real:
        with tempfile.TemporaryDirectory() as name:
            real = try_real_pairs(Path(name), arguments.real, arguments.seed)
        found |= {"real": real}
    wrong = found["wrong"] + found.get("real", {}).get("wrong", [])
    print(json.dumps(found | {"seconds": round(time.monotonic() - began)}, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
