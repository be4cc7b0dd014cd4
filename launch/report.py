"""`lens report RUN... --out DIR`: tables, figures and the viewer."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.base import require_positive
from launch.cores import cores
from launch.exit_codes import exit_code
from launch.flags import parse
from launch.progress import StageProgress
from launch.terminal import Terminal, print_out, shown

MOST_PROCESSES = 8
"""By default; each needs the memory of a run's words."""


@dataclass(frozen=True)
class ReportCommand:
    """Write tables, figures and the static viewer of judge runs, or of analyze runs (then without rates).

    A run that is damaged or not complete is left out and named, and so is LatentLens of a run whose store is gone or
    damaged; the others are reported, and the exit code is 1.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders of any stage; result files of latentlens (JSON, or folders of them) and saved pages of the logit lens
    (NAME_logit_lens.html of llava-interp) are shown in the viewer too, and rates of its judge outputs in the report."""
    out: Path
    """Where to write; an earlier report there is replaced, anything else is refused."""
    max_images: int = 500
    """Images of the viewer, for each analyze run."""
    peer_images: Path | None = None
    """Images of the latentlens result files, in the order of their data set: a folder, a list (.txt) or a table."""
    compare: str = ""
    """Published rates for comparison: paper (of the LatentLens paper), or a JSON or YAML file of your own."""
    concreteness: Path | None = None
    """Concreteness of words: csv or tsv with columns such as Word and Conc.M (Brysbaert et al. 2014); by default a
    small built-in list."""
    parts_of_speech: Path | None = None
    """Parts of speech of words: csv or tsv with columns such as Word and Dom_PoS_SUBTLEX, or word and upos."""
    attributes: Path | None = None
    """Words that name a colour, shape or texture: csv or tsv with the columns word and attribute."""

    processes: int | None = None
    """Processes that make figures and pages at once; by default one a core, 8 at most. The files are the same."""

    def __post_init__(self) -> None:
        """Raises InputError for a viewer without images, and for no process."""
        require_positive(self, "max_images", "processes")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""

    def run() -> int:
        command = parse(ReportCommand, argv, "lens report")
        # pandas and matplotlib take seconds to load, and mistakes in flags are shown at once.
        gc.disable()  # what imports make stays: to look through it again and again takes a tenth of the time
        from lenscore.reports.writing import write_report
        from lenscore.statistics.summary import summary_table
        from lenscore.statistics.word_lists import WordLists

        gc.freeze()
        gc.enable()

        with StageProgress(Terminal(stderr=True), "report") as progress:
            progress.say("reading the word lists")
            lists = WordLists.read(command.concreteness, command.parts_of_speech, command.attributes)
            published = None
            if command.compare:
                from lenscore.statistics.published_rates import read_published  # loads Pydantic

                published = read_published(command.compare)
            settings = command.max_images, command.peer_images, lists, published
            processes = command.processes or min(MOST_PROCESSES, cores())
            files = write_report(list(command.runs), command.out, *settings, processes, progress.say)
        console = Terminal()
        for summary in files.summaries:
            console.print(summary_table(summary))
        print_out(f"report: {shown(files.report)}\nviewer: {shown(files.viewer)}")
        for line in files.left_out:
            print_out(f"left out: {line}")
        return 1 if files.left_out else 0

    return exit_code(run)


def in_own_process(argv: Sequence[str]) -> int:
    """As `main`, in a new process: a report forks, which is not safe where other stages have left threads."""
    return subprocess.run([sys.executable, "-m", "launch.report", *argv], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
