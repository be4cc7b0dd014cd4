"""Shared by the benchmarks: interleaved runs and their medians, separate processes, peak memory, tables."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pkgutil
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch


@dataclass
class Timing:
    """Wall and processor seconds of every run; another load of the machine changes the latter less."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @property
    def median_wall(self) -> float:
        """Median of the wall seconds."""
        return statistics.median(self.wall)

    @property
    def median_processor(self) -> float:
        """Median of the processor seconds."""
        return statistics.median(self.processor)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Returns wall and processor seconds of a call, those of all threads and ended child processes included."""
    began, began_processor = time.perf_counter(), _processor_seconds()
    call()
    return time.perf_counter() - began, _processor_seconds() - began_processor


def _processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def interleaved(
    calls: Mapping[str, Callable[[], object]], runs: int, before: Callable[[], object] = gc.collect
) -> dict[str, Timing]:
    """Time all calls in turn, so that another load of the machine affects all of them alike.

    Args:
        calls: what is measured, by name.
        runs: of each call.
        before: is called before each run, outside of the measurement.

    """
    timings = {name: Timing() for name in calls}
    for number in range(runs):
        for name, call in calls.items():
            before()
            wall, processor = timed(call)
            timings[name].wall.append(wall)
            timings[name].processor.append(processor)
            print(f"run {number + 1}: {name}: {wall:.2f} s", file=sys.stderr, flush=True)
    return timings


@contextlib.contextmanager
def work_folder(keep: Path | None) -> Iterator[Path]:
    """The folder of `--keep`, or a temporary one, which is removed at the end."""
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextlib.contextmanager
def spent_in(functions: Mapping[str, str]) -> Iterator[dict[str, tuple[float, float]]]:
    """Wall and processor seconds that functions take within the block, by name; `functions` are dotted names."""
    spent = dict.fromkeys(functions, (0.0, 0.0))
    with contextlib.ExitStack() as stack:
        for name, target in functions.items():
            stack.enter_context(patch(target, _adding(pkgutil.resolve_name(target), name, spent)))
        yield spent


def _adding(function: Callable[..., Any], name: str, spent: dict[str, tuple[float, float]]) -> Callable[..., Any]:
    def timing(*args: Any, **kwargs: Any) -> Any:
        began, began_processor = time.perf_counter(), time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            wall, processor = spent[name]
            spent[name] = (wall + time.perf_counter() - began, processor + time.thread_time() - began_processor)

    return timing


def timing_table(timings: Mapping[str, Timing], limit: str) -> str:
    """Returns a table of medians, and of their ratios to those of the call named `limit`."""
    bare = timings[limit]
    rows = [
        [
            *(name, timing.median_wall, f"{min(timing.wall):.3g}-{max(timing.wall):.3g}"),
            *(timing.median_wall / bare.median_wall, timing.median_processor),
            timing.median_processor / bare.median_processor,
        ]
        for name, timing in timings.items()
    ]
    return markdown_table(["what", "median s", "range s", "x limit", "processor s", "x limit"], rows)


def in_own_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m module arguments` and return its last line of output, which must be JSON."""
    words = [sys.executable, "-m", module, *arguments]
    process = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} ended with status {process.returncode}")
    return json.loads(process.stdout.splitlines()[-1])


def peak_mib() -> float:
    """Returns the peak memory of this process in MiB. The value of getrusage would include that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table; floats have three significant digits."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_shown(cell) for cell in line) + " |" for line in lines)


def _shown(cell: object) -> str:
    if not isinstance(cell, float):
        return f"{cell:,}" if isinstance(cell, int) else str(cell)
    return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"


def machine() -> str:
    """Returns one line with the date, the machine and its load."""
    import torch

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        name = Path("/proc/cpuinfo").read_text().split("model name")[1].split(":", 1)[1].splitlines()[0].strip()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    load = os.getloadavg()[0]
    return (
        f"{date.today()}; {name}, {os.cpu_count()} cores, {gpu}; torch {torch.__version__}; load average {load:.1f} "
        "(1 means that one core was busy)"
    )
