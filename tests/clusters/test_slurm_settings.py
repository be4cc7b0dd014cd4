"""The settings of SLURM, and what becomes of them in the batch script; needs no SLURM."""

from __future__ import annotations

import os
import re
import shlex
import subprocess

import pytest

from jobs.worker import WorkerOptions
from launch.clusters.cluster import WorkerRequest
from launch.clusters.slurm import Slurm
from launch.clusters.slurm_element import Call, take_own_gpu
from launch.clusters.slurm_queue import minutes_of, queue_of, read_queue
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder


def crew(workers=None, device="auto", needs_device=True):
    return WorkerRequest(workers, needs_device, WorkerOptions(device=device))


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without SLURM."""
    monkeypatch.setenv("PATH", str(tmp_path))


def parameters(text):
    """What a batch script asks for."""
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("60", 60), ("30:00", 30), ("0:30", 1), ("4:00:00", 240), ("1-12", 2160), ("2-00:30", 2910), ("1-00:00:01", 1441)],
)
def test_time_limits_are_read_as_sbatch_reads_them(text, minutes):
    assert minutes_of(text) == minutes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"time": "4h"}, "--time: found '4h', expected minutes, H:MM:SS"),
        ({"time": "0"}, "--time: found '0'"),
        ({"memory": "32"}, "--memory: found '32', expected a size with its unit"),
        ({"gpus_per_node": -1}, "--gpus-per-node: found -1, expected at least 0"),
        ({"parallel": 0}, "--parallel: found 0, expected at least 1"),
        ({"sbatch": ("partition=x",)}, "--sbatch partition=x: there is a flag for it; expected --partition"),
        ({"sbatch": ("array=1-5",)}, "--sbatch array: lenscore sets it itself"),
        ({"sbatch": ("a b=5",)}, "--sbatch a b: not a name of an sbatch parameter"),
    ],
)
def test_wrong_values_are_refused_by_the_name_of_their_flag(settings, words):
    with pytest.raises(InputError, match="^" + re.escape(words)):
        Slurm(**settings)


def test_the_batch_script_says_what_the_flags_said(nowhere):
    slurm = Slurm(
        "a,b", "lab", "high", "1-12", 4, 6, "20GB", "a100", 2, ("exclude=n7", "exclusive"), ("module load x",)
    )
    text = slurm.plan_text("extract", crew(workers=16), missing=1000)
    found = parameters(text)
    expected = {
        **{"partition": "a,b", "account": "lab", "qos": "high", "time": "2160", "constraint": "a100", "exclude": "n7"},
        **{"gpus-per-node": "4", "ntasks-per-node": "4", "cpus-per-task": "6", "mem": "81920M", "array": "0-3%2"},
        **{"exclusive": "", "requeue": "", "signal": "USR2@90", "job-name": "lens-extract-RUN-ID"},
    }
    assert {key: found.get(key) for key in expected} == expected
    assert "wckey" not in found
    assert text.index("module load x") < text.index("srun ")
    assert "OMP_NUM_THREADS" not in text


def test_by_default_an_element_has_one_gpu_where_the_stage_computes_on_one(nowhere):
    assert parameters(Slurm().plan_text("extract", crew(), 100))["gpus-per-node"] == "1"
    assert "gpus-per-node" not in parameters(Slurm().plan_text("extract", crew(device="cpu"), 100))
    assert "gpus-per-node" not in parameters(Slurm().plan_text("judge", crew(needs_device=False), 100))
    typed = parameters(Slurm(sbatch=("gres=gpu:a100:1",)).plan_text("extract", crew(), 100))
    assert typed["gres"] == "gpu:a100:1"
    assert "gpus-per-node" not in typed


def test_workers_on_the_cpu_compute_with_one_thread_whatever_a_module_sets(nowhere):
    lines = Slurm(setup=("export OMP_NUM_THREADS=8",)).plan_text("judge", crew(device="cpu"), 5).splitlines()
    assert [line for line in lines if "OMP_NUM" in line][-1] == "export OMP_NUM_THREADS=1"


@pytest.mark.parametrize(("missing", "elements"), [(100, 8), (3, 3)])
def test_no_more_workers_than_missing_shards(nowhere, missing, elements):
    text = Slurm().plan_text("extract", crew(), missing)
    assert parameters(text)["array"] == f"0-{elements - 1}%{elements}"


@pytest.mark.parametrize(
    ("visible", "local_rank", "expected"),
    [("0,1,2,3", 2, "2"), ("4,7", 1, "7"), ("3", 1, "3"), ("GPU-a,GPU-b", 0, "GPU-a"), (None, 3, "3")],
)
def test_each_task_takes_its_own_gpu_whether_or_not_slurm_binds_them(monkeypatch, visible, local_rank, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    take_own_gpu(local_rank, "cuda")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def test_a_model_that_is_spread_has_one_worker_for_all_gpus_of_a_node(nowhere, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    take_own_gpu(0, "spread")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    slurm = Slurm(gpus_per_node=4)
    spread = parameters(slurm.plan_text("extract", crew(device="spread"), 100))
    each = parameters(slurm.plan_text("extract", crew(), 100))
    assert (spread["gpus-per-node"], spread["ntasks-per-node"]) == ("4", "1")
    assert (each["gpus-per-node"], each["ntasks-per-node"]) == ("4", "4")


@pytest.mark.parametrize(
    ("slurm", "device", "words"),
    [(Slurm(gpus_per_node=0), "cuda", "--gpus-per-node of at least 1"), (Slurm(), "mps", "auto, cpu, cuda or spread")],
)
def test_devices_that_slurm_cannot_give_are_refused(nowhere, slurm, device, words):
    with pytest.raises(InputError, match=words):
        slurm.plan_text("extract", crew(device=device), 5)


def test_a_failing_line_of_setup_ends_the_script_and_names_itself(nowhere, monkeypatch):
    monkeypatch.undo()

    def outcome(*setup, python="true"):
        text = Slurm(setup=setup, python=python).plan_text("judge", crew(device="cpu"), 1)
        stub = "srun() { shift $#; echo worker; return ${FAIL:-0}; }\n"
        script = text.replace("#!/bin/bash\n", "#!/bin/bash\n" + stub)
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    assert outcome("x=1", "trap 'echo own' EXIT") == (0, "worker\nown\n", "")
    for line, code in (("false", 1), ("set -e; false", 1), ("exit 3", 3), ("(exit 5)", 5)):
        code_of_script, out, err = outcome("true", line)
        assert (code_of_script, out) == (2, "")
        assert err.startswith(f"lens: refused: --setup {shlex.quote(line)} ended with exit code {code} on ")
    assert outcome("exit 143") == (143, "", "")  # as of a signal: the job is cancelled, or queued again
    monkeypatch.setenv("FAIL", "1")
    assert outcome(python="true")[0] == 1
    code, _, err = outcome(python="/no/such/python")
    assert code == 2
    assert err.startswith("lens: refused: --python /no/such/python cannot run a worker on ")
    assert err.endswith("/no/such/python: No such file or directory\n")


def test_a_command_in_a_job_ends_with_its_exit_code():
    with pytest.raises(SystemExit) as end:
        Call(lambda flags: len(flags), ("--out", "x"))()
    assert end.value.code == 2
    assert Call(lambda flags: 0, ())() is None


def test_jobs_that_ended_are_told_from_jobs_that_go_on():
    answer = "7_0|COMPLETED|n1|None\n7_1|COMPLETING|n2|None\n8|PENDING||Dependency\n9_0|PREEMPTED|n3|None\n"
    assert [(entry.job, entry.array, entry.reason) for entry in read_queue(answer) if not entry.ended] == [
        ("7_1", "7", "None"),
        ("8", "8", "Dependency"),
    ]


def test_without_slurm_one_line_says_so(nowhere, tmp_path):
    run = RunFolder.create(tmp_path / "run", "extract", {}, {})
    with pytest.raises(InputError, match="there is no sinfo on this machine's PATH; run this on a login node"):
        Slurm().submit(run, crew())
    with pytest.raises(InputError, match="there is no squeue on this machine's PATH"):
        queue_of(run)
    assert not (run.path / "submissions").exists()
