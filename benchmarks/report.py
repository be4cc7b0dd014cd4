"""`lens report` of large runs: processor time of each section, memory, files and bytes of the report.

    python -m benchmarks.report [--images 300] [--grid 24] [--runs 1] [--keep FOLDER]

Builds synthetic runs (9 layers, 3 lenses, 5 words each, a vocabulary of 100,000 words) on the same images. Their scores
are uniformly random and their words follow Zipf's law, which compresses worse than real ones.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

from benchmarks.measuring import machine, markdown_table, work_folder
from benchmarks.viewer_run import Size, make_run
from lenscore.reports.writing import write_report


def main() -> None:
    """Print what was measured as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--grid", type=int, default=24)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="write into this folder, leave it there, and use runs that are there")
    arguments = parser.parse_args()
    with work_folder(arguments.keep) as folder:
        runs = [folder / f"run-{number:02d}" for number in range(arguments.runs)]
        for number, run in enumerate(runs):
            if not run.exists():
                print(f"building run {number}", file=sys.stderr)
                make_run(run, Size(arguments.images, arguments.grid, number=number))
        measure([run / "verdicts" for run in runs], folder / "report")


def measure(runs: list[Path], out: Path) -> None:
    """Report the runs and print the table."""
    times = [("start", time.process_time())]
    files = write_report(runs, out, progress=lambda name: times.append((name, time.process_time())))
    ends = [moment for _, moment in times[1:]] + [time.process_time()]
    spent = [[name, end - begin] for (name, begin), end in zip(times, ends, strict=True)]
    written = [path for path in out.rglob("*") if path.is_file()]
    images = [path.stat().st_size for path in files.viewer.parent.glob("*/images/*.js")]
    print(f"{machine()}\n{len(runs)} runs, {len(images)} pages of images\n")
    rows = [[name, seconds] for name, seconds in spent if seconds >= 0.05] + [["all", sum(line[1] for line in spent)]]
    print(markdown_table(["section", "s of a processor"], rows) + "\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sizes = [
        ["memory at most, with the building of runs, MiB", peak],
        ["files", float(len(written))],
        ["report, MB", sum(path.stat().st_size for path in written) / 1e6],
        ["data of an image, mean, kB", sum(images) / max(1, len(images)) / 1e3],
    ]
    print(markdown_table(["what", "number"], sizes))


if __name__ == "__main__":
    main()
