"""`lens extract`: the command line of jobs/extract_settings.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.extract_settings import ExtractSettings
from launch.settings_of_stores import with_first_store
from launch.stages import stage_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return stage_command(ExtractSettings, argv, with_first_store)


if __name__ == "__main__":
    sys.exit(main())
