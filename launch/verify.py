"""`lens verify PATH`: check every byte of a run or store against its receipts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from launch.exit_codes import exit_code
from launch.flags import parse
from launch.progress import StageProgress
from launch.terminal import Terminal, print_out
from storage_layouts.counts import counted
from storage_layouts.verification import verify


@dataclass(frozen=True)
class VerifyCommand:
    """Name every file of a run that is missing, truncated or changed, with the remedy.

    Files that the machine cannot read (no permission, a failing disk) are listed separately; their bytes are unknown.
    """

    path: Annotated[Path, tyro.conf.Positional]
    """The run folder, the store, or the ledger folder of judge runs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 if every byte is right, else 1."""

    def run() -> int:
        path = parse(VerifyCommand, argv, "lens verify").path
        with StageProgress(Terminal(stderr=True), "verify") as progress:
            progress.say(f"reading {path}")
            outcome = verify(path, lambda files: progress.say(f"{counted(files, 'file')} of {path} checked"))
        for line in (*outcome.problems, *outcome.unread):
            print_out(line)
        unread = f", {len(outcome.unread)} could not be read" if outcome.unread else ""
        print_out(f"{path}: {counted(outcome.files, 'file')} checked, {len(outcome.problems)} bad{unread}")
        return 1 if outcome.problems or outcome.unread else 0

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
