"""`lens judge`: the command line of jobs/judge_job.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.judge_job import JudgeJob
from launch.stages import stage_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return stage_command(JudgeJob, one_panel(sys.argv[1:] if argv is None else argv))


def one_panel(argv: Sequence[str]) -> list[str]:
    """Returns the arguments with several ``--judge`` merged into one, their SPECs separated by commas."""
    specs: list[str] = []
    others: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--judge":
            specs += [spec] if (spec := next(words, "")) else []
        elif word.startswith("--judge="):
            specs.append(word.removeprefix("--judge="))
        else:
            others.append(word)
    return [*others, "--judge", ",".join(specs)] if specs else others


if __name__ == "__main__":
    sys.exit(main())
