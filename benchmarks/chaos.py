"""Kill extract and analyze repeatedly, repeat the command, and compare the bytes with an undisturbed run.

    python benchmarks/chaos.py --kills 200 --seed 0

Each fault is injected at a random time: at any time while the command runs, or just after the run folder changed. A
SIGKILL ends the whole process group, the launching command alone, or one worker; a SIGSTOP suspends one worker, often
until another has taken over its shard, and a SIGCONT continues it. No data may be lost or doubled.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lenscore import shapes
from storage_layouts.files import canonical_json
from storage_layouts.run_identity import IDENTITY

LOGS = ("attempts", "heartbeats", "claims", "failures", "submissions")
TARGETS = ("group", "launcher", "worker", "sleep")
STALE_AFTER = 1.5  # seconds; a worker that is suspended for longer is replaced


@dataclass
class Outcome:
    """The result of fault injection into one command."""

    faults: Counter[str] = field(default_factory=Counter)
    completions: int = 0
    differing: list[str] = field(default_factory=list)


def data_files(run: Path) -> dict[str, bytes]:
    """Returns the data files of a run: all but logs and partial files; run.json without its time."""
    files = {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.relative_to(run).parts[0] not in LOGS and not path.name.endswith(".partial")
    }
    content = json.loads(files["run.json"])
    files["run.json"] = canonical_json({key: content[key] for key in ("run_id", *IDENTITY)})
    return files


def differences(run: Path, undisturbed: Path) -> list[str]:
    """Returns the names of files that are missing, superfluous or different."""
    found, expected = data_files(run), data_files(undisturbed)
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def inject_faults(
    verb: str, flags: Sequence[str], undisturbed: Path, out: Path, kills: int, dice: random.Random
) -> Outcome:
    """Inject faults into `lens VERB flags --out out`, which is repeated until it completes, and then started anew.

    Args:
        verb: of the command.
        flags: of the command, without --out.
        undisturbed: a run of the same command without faults; every completed run is compared with it.
        out: the run folder.
        kills: total number of faults.
        dice: decides times and targets.

    """
    outcome = Outcome()
    lifetime = 10.0
    while True:
        began = time.monotonic()
        process = _start(verb, flags, out)
        faults = []
        while outcome.faults.total() < kills and (fault := _inject(process, out, lifetime, dice)):
            outcome.faults[fault] += 1
            faults.append(fault)
        code = process.wait()
        seconds = time.monotonic() - began
        print(f"{verb}: {seconds:5.1f} s, {' '.join(faults) or 'none'}, exit code {code}", file=sys.stderr)
        if code == 0:
            lifetime = time.monotonic() - began
            outcome.completions += 1
            outcome.differing += differences(out, undisturbed)
            if outcome.differing or outcome.faults.total() >= kills:
                return outcome
            shutil.rmtree(out)


def start_command(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a command as a group of processes of its own."""
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)


def _start(verb: str, flags: Sequence[str], out: Path) -> subprocess.Popen[bytes]:
    line = [verb, *flags, "--out", str(out), "--stale-after", str(STALE_AFTER)]
    return start_command([sys.executable, "-m", "launch.cli", *line])


def _inject(process: subprocess.Popen[bytes], out: Path, lifetime: float, dice: random.Random) -> str:
    """Inject a fault at a random time; returns its target, or "" if the command ended before."""
    if dice.random() < 0.3:
        _wait(process, dice.uniform(0, lifetime), lambda: False)
    else:
        before = _change_mark(out)
        _wait(process, 60, lambda: _change_mark(out) != before)
        _wait(process, dice.uniform(0, 0.5), lambda: False)
    if process.poll() is not None:
        return ""
    target = dice.choice(TARGETS)
    workers = _children(process.pid)
    if target in ("worker", "sleep") and workers:
        victim = dice.choice(workers)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL if target == "worker" else signal.SIGSTOP)
        if target == "sleep":
            time.sleep(dice.uniform(0, 4 * STALE_AFTER))
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)
        return target
    if target == "launcher":
        process.kill()
        return "launcher"
    os.killpg(process.pid, signal.SIGKILL)
    return "group"


def _wait(process: subprocess.Popen[bytes], seconds: float, ready: object) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None and not ready():  # type: ignore[operator]
        time.sleep(0.01)


def _change_mark(out: Path) -> int:
    """Returns the number of data files and receipts, partial ones included, without logs, which begin too early."""
    folders = [path for path in out.iterdir() if path.name not in LOGS] if out.exists() else []
    return sum(1 for folder in folders for _ in (folder.rglob("*") if folder.is_dir() else (folder,)))


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def complete(verb: str, flags: Sequence[str], out: Path) -> None:
    """Run a command undisturbed. Raises CalledProcessError if it does not complete."""
    process = _start(verb, flags, out)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, ["lens", verb, *flags])


def inject_into_both(folder: Path, kills: int, seed: int) -> dict[str, Outcome]:
    """Inject faults into extract and analyze on the shapes world, half of `kills` each."""
    dice = random.Random(seed)
    model = str(shapes.model_path())
    shapes.write_images(folder / "images", "validation", 40)
    extract = ["--model", model, "--corpus", str(shapes.corpus_path()), "--limit", "4000", "--rows-per-shard", "256"]
    analyze = [
        *("--model", model, "--images", str(folder / "images"), "--store", str(folder / "store.zarr")),
        *("--images-per-shard", "4"),
    ]
    outcomes = {}
    for verb, flags, name in (("extract", extract, "store.zarr"), ("analyze", analyze, "results")):
        complete(verb, flags, folder / name)
        share = kills - kills // 2 if verb == "extract" else kills // 2
        outcomes[verb] = inject_faults(verb, flags, folder / name, folder / f"disturbed-{name}", share, dice)
    return outcomes


def main() -> int:
    """Print a table; exit code 1 if a byte differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = inject_into_both(Path(folder), arguments.kills, arguments.seed)
    print(
        "| stage | faults | group killed | launcher killed | worker killed | worker slept | completed | files differ |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for verb, outcome in outcomes.items():
        hits = " | ".join(str(outcome.faults[target]) for target in TARGETS)
        print(f"| {verb} | {outcome.faults.total()} | {hits} | {outcome.completions} | {len(outcome.differing)} |")
    return int(any(outcome.differing for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
