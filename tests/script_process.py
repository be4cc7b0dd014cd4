"""A Python process that runs one script after the other: to import torch takes longer than most of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.forked_workers import start

SERVE = """
import contextlib, io, json, sys, traceback

for line in sys.stdin:
    script, *arguments = json.loads(line)
    sys.argv, said, failure = ["script", *arguments], io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(said):
            exec(script, {"__name__": "__main__"})
    except Exception:
        failure = traceback.format_exc()
    print(json.dumps([said.getvalue(), failure]), flush=True)
"""


class ScriptProcess:
    """Runs scripts, each with names and arguments of its own; modules stay imported."""

    def __init__(self, environment: dict[str, str], folder: Path | None = None) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = start([sys.executable, "-c", SERVE], env=environment, cwd=folder, text=True, **pipes)

    def __enter__(self) -> ScriptProcess:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # which closes its input
            pass

    def run(self, script: str, *arguments: object, fails: bool = False) -> str:
        """What a script prints, or the last line of its traceback."""
        self._process.stdin.write(json.dumps([script, *map(str, arguments)]) + "\n")
        self._process.stdin.flush()
        said, failure = json.loads(self._process.stdout.readline())
        assert bool(failure) == fails, failure
        return failure.strip().splitlines()[-1] if fails else said
