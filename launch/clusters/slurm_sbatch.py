"""Shows the errors of sbatch while it runs: submitit hides them, and sbatch retries for two minutes."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from launch.clusters.slurm_queue import one_line, outside_of_jobs
from launch.terminal import print_err
from storage_layouts.errors import InputError
from storage_layouts.machine_errors import writing

if TYPE_CHECKING:
    from submitit import SlurmExecutor

SECONDS_BETWEEN_LINES = 3.0


@contextlib.contextmanager
def submitting(folder: Path) -> Iterator[None]:
    """Submit with submitit, and print the errors of sbatch while it retries.

    Raises InputError with the errors of sbatch if it fails, and MachineError if submitit cannot write into `folder`.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    with tempfile.NamedTemporaryFile("r", errors="replace") as file, _errors_to(file.name):

        def errors() -> str:
            file.seek(0)
            return file.read()

        try:
            with outside_of_jobs(), _shown(errors), writing(folder):
                yield
        except (FailedJobError, FailedSubmissionError) as error:
            raise InputError("sbatch refused the job: " + one_line(f"{error}\n{errors()}")) from None


@contextlib.contextmanager
def _errors_to(file: str) -> Iterator[None]:
    """Redirect the errors of sbatch into a file; submitit keeps them until sbatch has ended."""
    from submitit import SlurmExecutor

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
def _shown(errors: Callable[[], str]) -> Iterator[None]:
    """Print the errors of sbatch when they change, every few seconds."""
    over = threading.Event()

    def show() -> None:
        shown = None
        while not over.wait(SECONDS_BETWEEN_LINES):
            if (text := errors()) != shown:
                reason = one_line(text) if text else "the controller has not answered"
                print_err(f"slurm: sbatch has not submitted the job yet: {reason}")
                shown = text

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
