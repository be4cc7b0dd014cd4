"""What sbatch says while it tries again, with a stand-in for SLURM's commands."""

from __future__ import annotations

import os
import re

import pytest

from jobs.worker import WorkerOptions
from launch.clusters import slurm_sbatch
from launch.clusters.cluster import WorkerRequest
from launch.clusters.slurm import Slurm
from launch.clusters.slurm_calls import calls_in
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder

SBATCH = """\
printf '%s' '{words}' >&2
for _ in $(seq 200); do
    [ -e {folder}/heard ] && break
    sleep 0.05
done
[ -e {folder}/heard ] || exit 1
{end}
"""
ACCEPTED = "echo Submitted batch job 77"
FULL = "sbatch: error: Slurm job queue full, sleeping and retrying\n"


@pytest.fixture
def slurm_of(tmp_path, monkeypatch):
    """A SLURM whose sbatch says some words and goes on only when they were told; second, what was told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    told = []

    def hear(words):
        told.append(words)
        (folder / "heard").touch()

    def write(name, text):
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        (folder / name).chmod(0o755)

    def make(words, end):
        write("sbatch", SBATCH.format(folder=folder, words=words, end=end))
        return told

    for name, text in (("sinfo", "echo 'ci*|infinite'"), ("scontrol", "exit 0"), ("srun", "exit 0")):
        write(name, text)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm_sbatch, "print_err", hear)
    monkeypatch.setattr(slurm_sbatch, "SECONDS_BETWEEN_LINES", 0.05)
    return make


def submit(tmp_path, workers):
    run = RunFolder.create(tmp_path / "run", "extract", {}, {})
    return Slurm().submit(run, WorkerRequest(workers, False, WorkerOptions("cpu"))), run


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("words", "line"),
    [(FULL, "Slurm job queue full, sleeping and retrying"), ("", "the controller has not answered")],
    ids=["full", "silent"],
)
def test_an_sbatch_that_tries_again_is_heard_meanwhile(slurm_of, tmp_path, workers, words, line):
    told = slurm_of(words, ACCEPTED)
    submission, _ = submit(tmp_path, workers)
    assert submission.label == "SLURM job 77"
    assert told == [f"slurm: sbatch has not submitted the job yet: {line}"]


def test_an_sbatch_that_gives_up_is_quoted_and_leaves_nothing(slurm_of, tmp_path):
    slurm_of(FULL, "echo 'sbatch: error: Batch job submission failed: Job violates accounting policy' >&2; exit 1")
    words = "Slurm job queue full, sleeping and retrying; Batch job submission failed: Job violates accounting policy"
    with pytest.raises(InputError, match=f"^sbatch refused the job: {words}$"):
        submit(tmp_path, 2)
    assert list((tmp_path / "run" / "submissions").glob("*")) == []


def test_a_queued_command_says_how_to_see_it(slurm_of, tmp_path):
    slurm_of(FULL, ACCEPTED)
    assert Slurm().submit_function("lens-report", tmp_path / "submissions", len, ["--out", "x"], []) == "SLURM job 77"
    (script,) = (tmp_path / "submissions").glob("*/77_submission.sh")
    asked = re.search(r"^#SBATCH --error=(.*)$", script.read_text(), re.MULTILINE)[1]
    (call,) = calls_in(tmp_path)
    assert (call.name, call.job, call.log) == ("lens-report", "77", asked.replace("%j", "77").replace("%t", "0"))
