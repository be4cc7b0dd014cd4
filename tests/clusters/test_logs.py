"""What is read out of logs; the texts are those of real jobs of SLURM 22.05, with shorter paths."""

from __future__ import annotations

import pickle

import pytest

from jobs.work import WorkerReport
from launch.clusters.logs import first_error, last_words
from launch.clusters.slurm_ends import ends_of
from launch.clusters.slurm_queue import QueueEntry
from storage_layouts.runs import RunFolder

NO_PYTHON = """\
slurmstepd-n1: error: execve(): /no/such/python: No such file or directory
srun: error: n1: task 0: Exited with exit code 2
"""
NO_MODULE = """\
/spool/n1/job00004/slurm_script: line 19: module: command not found
/usr/bin/python3: Error while finding module specification for 'x' (ModuleNotFoundError: No module named 'submitit')
srun: error: n1: task 0: Exited with exit code 1
"""
REFUSED = NO_PYTHON + "lens: refused: --python /no/such/python cannot run a worker on n1: No such file or directory\n"
KILLED = """\
/env/lib/python3.11/site-packages/x.py:3: UserWarning: this may be an error one day
srun: error: n1: task 0: Killed
"""
RAISED = """\
UserWarning: cannot tell
Traceback (most recent call last):
  File "/env/x.py", line 3, in f
    raise OSError("first")
OSError: first

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/env/x.py", line 7, in g
RuntimeError: second
srun: error: n1: task 1: Exited with exit code 1
srun: error: n1: task 0: Killed
"""
OUT_OF_TIME = "slurmstepd-n1: error: *** JOB 5 ON n1 CANCELLED AT 2026-11-29T01:00:00 DUE TO TIME LIMIT ***\n"


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (NO_PYTHON, "execve(): /no/such/python: No such file or directory"),
        (NO_MODULE, "/spool/n1/job00004/slurm_script: line 19: module: command not found"),
        (REFUSED, "--python /no/such/python cannot run a worker on n1: No such file or directory"),
        (KILLED, "n1: task 0: Killed (SIGKILL; often more memory than --memory)"),
        (RAISED, "OSError: first"),
        (OUT_OF_TIME, "JOB 5 ON n1 CANCELLED AT 2026-11-29T01:00:00 DUE TO TIME LIMIT"),
        ("loading\n", ""),
        ("", ""),
    ],
    ids=["python", "module", "refused", "killed", "raised", "time", "harmless", "empty"],
)
def test_the_first_error_of_a_program_is_told_from_the_schedulers_last_line(log, error):
    assert first_error(log) == error


def test_a_worker_that_is_certainly_gone_has_last_words():
    assert last_words("loading\n") == "loading"
    assert last_words("") == "ended without output; killed?"


@pytest.fixture
def run(tmp_path):
    run = RunFolder.create(tmp_path / "run", "extract", {}, {})
    (run.path / "submissions" / "1").mkdir(parents=True)
    return run


def task(run, job, log="", result=None):
    folder = run.path / "submissions" / "1"
    (folder / f"{job}_0_log.err").write_text(log)
    if result is not None:
        (folder / f"{job}_0_result.pkl").write_bytes(pickle.dumps(result))


def test_ends_are_told_apart(run):
    task(run, "7_0", KILLED)
    task(run, "7_1", "warning: an error that did no harm\n", ("success", WorkerReport(finished=3)))
    task(run, "7_2", result=("success", WorkerReport(refused="no such layer")))
    task(
        run, "7_3", result=("error", "Traceback (most recent call last):\n  File\nModuleNotFoundError: No module 'x'\n")
    )
    task(run, "7_4", "loading\n")
    task(run, "7_5", NO_MODULE)
    task(run, "7_6", REFUSED)
    listed = [
        QueueEntry("7_5", "RUNNING", "n1", "None"),
        QueueEntry("7_7", "OUT_OF_MEMORY", "n2", "OutOfMemory"),
        QueueEntry("7_8", "PENDING", "", "Priority"),
        QueueEntry("7_9", "FAILED", "n3", "JobLaunchFailure"),  # it could not open its log in a read-only folder
    ]
    found = {
        end.worker.removeprefix("SLURM job 7_"): (end.error.split(" (")[0], end.refused) for end in ends_of(run, listed)
    }
    assert found == {
        "0": ("n1: task 0: Killed", False),
        "2": ("no such layer", True),
        "3": ("ModuleNotFoundError: No module 'x'", True),
        "4": ("loading", False),
        "6": ("--python /no/such/python cannot run a worker on n1: No such file or directory", True),
        "7": ("out of memory on n2", False),
        "9": ("failed on n3", True),
    }
    # Without an answer of the controller only errors are told: 7_4 may well be running.
    assert {end.worker for end in ends_of(run, None)} == {f"SLURM job 7_{i}" for i in (0, 2, 3, 5, 6)}


class Trap:
    """A pickle that would run a command."""

    def __reduce__(self):
        return print, ("this must not run",)


def test_a_result_that_is_no_report_runs_no_code(run, capsys):
    task(run, "7_0", result=("success", Trap()))
    (end,) = ends_of(run, [])
    assert "builtins.print is no report of a worker" in end.error
    assert capsys.readouterr().out == ""
