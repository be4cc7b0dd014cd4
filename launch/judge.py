"""`lens judge`: the command line of jobs/judge.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.judge import JudgeJob
from launch.stages import stage_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return stage_command(JudgeJob, argv)


if __name__ == "__main__":
    sys.exit(main())
