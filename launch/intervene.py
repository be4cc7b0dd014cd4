"""`lens intervene`: the command line of jobs/intervene_settings.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.intervene_settings import InterveneSettings
from launch.stages import stage_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return stage_command(InterveneSettings, argv)


if __name__ == "__main__":
    sys.exit(main())
