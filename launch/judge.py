"""`lens judge`: the command line of jobs/judge_settings.py."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jobs.judge_settings import JudgeSettings
from launch.stages import stage_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return stage_command(JudgeSettings, one_panel(sys.argv[1:] if argv is None else argv))


def one_panel(argv: Sequence[str]) -> list[str]:
    """Returns the arguments with several ``--judge`` merged into one, their SPECs separated by commas."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--judge", action="append", nargs="?", const="")
    given, others = parser.parse_known_args(argv)
    specs = ",".join(filter(None, given.judge or ()))
    return [*others, "--judge", specs] if specs else others


if __name__ == "__main__":
    sys.exit(main())
