"""sbatch as submitit runs it, heard while it is at work: it tries again for two minutes if SLURM takes no job now."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from launch.clusters.slurm_queue import one_line, outside_of_jobs
from launch.terminal import tell
from storage_layouts.errors import InputError
from storage_layouts.machine_errors import writing

SECONDS_BETWEEN_WORDS = 3.0
"""An sbatch that has ended before has nothing to tell."""


@contextlib.contextmanager
def submitting(folder: Path) -> Iterator[None]:
    """Submit with submitit: what sbatch says is told while it goes on trying.

    Raises InputError with sbatch's words if it gives up, and MachineError if submitit cannot write into `folder`.
    """
    with tempfile.NamedTemporaryFile("r", errors="replace") as said, _saying_into(said.name):

        def words() -> str:
            said.seek(0)
            return said.read()

        try:
            with outside_of_jobs(), _told(words), writing(folder):
                yield
        except (FailedJobError, FailedSubmissionError) as error:
            raise InputError("sbatch refused the job: " + one_line(f"{error}\n{words()}")) from None


@contextlib.contextmanager
def _saying_into(file: str) -> Iterator[None]:
    """Let sbatch write its errors into a file: submitit would keep them to itself until it has ended."""
    usual = SlurmExecutor._make_submission_command

    def command(executor: SlurmExecutor, script: Path) -> list[str]:
        return ["sh", "-c", 'errors=$1; shift; exec "$@" 2>"$errors"', "sbatch", file, *usual(executor, script)]

    # Not in a subclass: for arrays submitit makes an executor of its own class.
    SlurmExecutor._make_submission_command = command
    try:
        yield
    finally:
        SlurmExecutor._make_submission_command = usual


@contextlib.contextmanager
def _told(words: Callable[[], str]) -> Iterator[None]:
    """Tell what is new in the words of sbatch, some seconds apart, until the end."""
    over = threading.Event()

    def tell_on() -> None:
        told = None
        while not over.wait(SECONDS_BETWEEN_WORDS):
            if (said := words()) != told:
                reason = one_line(said) if said else "the controller has not answered"
                tell(f"slurm: sbatch has not submitted the job yet: {reason}")
                told = said

    thread = threading.Thread(target=tell_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
