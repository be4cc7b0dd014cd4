"""Stages on a real SLURM without accounting: what a user sees when nothing breaks, and when something is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos import differences
from jobs.worker import WorkerOptions
from launch import extract
from launch.clusters.cluster import WorkerRequest
from launch.clusters.slurm import Slurm
from launch.clusters.slurm_queue import queue_of
from launch.run_status.reading import status_of
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder
from tests.clusters.conftest import computed_twice, receipts
from tests.clusters.slurm_cluster import wait_for
from tests.clusters.slurm_runs import FORKED, SMALL, at_work, run_on_slurm

BRIEF = {"per_token": 3}
CREW = WorkerRequest(1, True, WorkerOptions(device="cpu", stale_after=6))


def planned(job):
    run = job.open_run()
    job.plan(run, lambda message: None)
    return run


@pytest.fixture(scope="module")
def briefly_undisturbed(stage, tmp_path_factory):
    return stage.undisturbed(tmp_path_factory.mktemp("brief") / "store.zarr", **BRIEF)


def test_an_array_over_three_nodes_with_two_workers_each_on_its_own_gpu(
    slurm, stage, undisturbed, slow_shards, tmp_path
):
    """Three elements take half a node's GPUs and two thirds of its cores, so each gets a node of its own."""
    run = planned(stage.job(tmp_path / "store.zarr"))
    submission = replace(SMALL, gpus_per_node=2, cpus=2).submit(run, replace(CREW, workers=6))
    gpus, nodes = set(), set()

    def watch():
        gpus.update((beat["log"], beat["gpu"], beat["device"]) for beat in run.heartbeats())
        if len(nodes) < 3:
            nodes.update((entry.job, entry.node) for entry in queue_of(run) if entry.state == "RUNNING")

    assert submission.wait(watch) == []
    job = submission.jobs[0].partition("_")[0]
    assert submission.label == f"SLURM job {job}"
    assert nodes == {(f"{job}_0", "n1"), (f"{job}_1", "n2"), (f"{job}_2", "n3")}
    assert sorted((Path(log).name, gpu, device) for log, gpu, device in gpus) == [
        (f"{job}_{element}_{task}_log.err", str(task), "cpu") for element in range(3) for task in range(2)
    ]
    assert differences(run.path, undisturbed) == []
    assert computed_twice(run.path) == 0


def test_more_workers_than_an_array_may_have_go_into_several_arrays(slurm, stage, briefly_undisturbed, tmp_path):
    with slurm.configured(max_array_size=2):
        with pytest.raises(RuntimeError, match="Invalid job array specification"):
            slurm.run("sbatch", "--array=0-2", "--output=/dev/null", "--wrap=true")
        run = planned(stage.job(tmp_path / "store.zarr", **BRIEF))
        submission = SMALL.submit(run, replace(CREW, workers=3))
        first, second = (job.partition("_")[0] for job in (submission.jobs[0], submission.jobs[-1]))
        assert submission.jobs == (f"{first}_0", f"{first}_1", second)
        assert (submission.label, submission.cancel) == (
            f"SLURM jobs {first} and {second}",
            f"scancel {first} {second}",
        )
        assert submission.wait(lambda: None) == []
    assert differences(run.path, briefly_undisturbed) == []


def test_the_command_may_leave_and_come_back(slurm, stage, undisturbed, slow_shards, tmp_path, capfd):
    out = tmp_path / "store.zarr"
    flags = [
        *(*stage.flags(out), "--cluster", "slurm", "--workers", "1"),
        *("--device", "cpu", "--gpus-per-node", "1", "--memory", "400MB", "--stale-after", "6"),
    ]
    assert extract.main([*flags, "--detach"]) == 0
    left = capfd.readouterr().err
    (job,) = {entry.job for entry in queue_of(RunFolder.open(out))}
    assert f"SLURM job {job}" in left
    assert f"scancel {job}" in left
    beats: list[dict[str, object]] = []
    wait_for(lambda: beats.extend(at_work(out)) or beats, "a worker with a shard", 120)
    worker = int(beats[0]["pid"])
    os.kill(worker, signal.SIGSTOP)  # so that it is not done before the next command looks
    command = [sys.executable, "-m", "launch.cli", "extract", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as waiting:
        words = ""
        while "Ctrl-C" not in words:
            line = waiting.stderr.readline()
            assert line, words
            words += line
        waiting.send_signal(signal.SIGINT)  # Ctrl-C
        words += waiting.stderr.read()
    os.kill(worker, signal.SIGCONT)
    assert waiting.returncode == 130
    assert f"found SLURM job {job}" in words
    assert f"To cancel: scancel {job}" in words
    assert extract.main(flags) == 0, capfd.readouterr().err
    assert len(list((out / "submissions").iterdir())) == 1
    assert differences(out, undisturbed) == []


def test_a_stage_is_queued_behind_the_jobs_of_another_and_looks_at_what_they_left(slurm, stage, tmp_path):
    first = planned(stage.job(tmp_path / "first.zarr"))
    second = planned(stage.job(tmp_path / "second.zarr", **BRIEF))
    upstream = replace(SMALL, sbatch=("hold",)).submit(first, CREW)
    crew = replace(CREW, options=replace(CREW.options, after=(first.path,)))
    submission = SMALL.submit(second, crew, after=[first])
    assert f"Dependency=afterany:{upstream.jobs[0]}" in slurm.run("scontrol", "show", "job", submission.jobs[0])
    slurm.run("scancel", upstream.jobs[0])
    with pytest.raises(InputError, match=r"first.zarr: 44 of 44 shards are missing \(00000, 00001"):
        submission.wait(lambda: None)


def test_a_store_grows_behind_the_job_that_makes_it(slurm, stage, undisturbed, slow_shards, tmp_path, capfd):
    """Planned and computed by jobs, one of whose workers dies; the bytes are those of one worker here."""
    more = tmp_path / "more.txt"
    more.write_text("\n".join(stage.corpus.read_text().splitlines()[::-3]) + "\nthe dog on the red cat on the sky")
    on_slurm = ["--cluster", "slurm", "--device", "cpu", "--gpus-per-node", "1", "--memory", "400MB"]
    on_slurm += ["--stale-after", "6", "--python", FORKED]
    first, grown = tmp_path / "first.zarr", tmp_path / "grown.zarr"
    assert extract.main([*stage.flags(first), *on_slurm, "--workers", "2", "--detach"]) == 0
    wait_for(lambda: (first / "plan.json").exists(), "the plan of the first store", 60)
    flags = ["--add", str(first), "--corpus", str(more), "--out", str(grown), *on_slurm, "--workers", "2"]
    assert extract.main([*flags, "--after", str(first), "--detach"]) == 0
    assert not (grown / "plan.json").exists()  # it needs the first store's outlier dimensions
    beats: list[dict[str, object]] = []
    wait_for(lambda: beats.extend(at_work(grown)) or beats, "a worker with a shard", 180)
    os.kill(int(beats[0]["pid"]), signal.SIGKILL)
    assert extract.main(flags) == 0, capfd.readouterr().err
    assert differences(first, undisturbed) == []
    here = stage.job(tmp_path / "here.zarr", corpus=(more,), add=(first,))
    assert differences(grown, stage.undisturbed(here.out, corpus=here.corpus, add=here.add)) == []


def test_a_gpu_that_does_not_work_is_refused_rather_than_replaced_by_the_cpu(slurm, stage, tmp_path):
    with pytest.raises(InputError, match=r"--device cuda: torch .* finds no CUDA device on .*CUDA_VISIBLE_DEVICES: 0"):
        run_on_slurm(stage.job(tmp_path / "store.zarr"), device="auto")
    assert receipts(tmp_path / "store.zarr") == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Slurm(partition="gpu"), r"--partition: found 'gpu', expected one of ci, short, urgent$"),
        (
            Slurm(partition="short", time="1:00:00"),
            r"--time: found 1:00:00 \(60 minutes\), expected at most 30 minutes",
        ),
        (Slurm(constraint="h100"), r"sbatch refused the job: .*Invalid feature specification$"),
        (Slurm(memory="9TB"), r"sbatch refused the job: .*Requested node configuration is not available$"),
        (Slurm(sbatch=("colour=red",)), r"sbatch refused the job: .*unrecognized option '--colour=red'"),
    ],
)
def test_what_slurm_does_not_have_is_refused_in_one_line_and_leaves_nothing(
    slurm, stage, tmp_path, settings, words, capfd
):
    run = planned(stage.job(tmp_path / "store.zarr"))
    with pytest.raises(InputError, match=words) as refusal:
        settings.submit(run, replace(CREW, workers=2))
    assert "\n" not in str(refusal.value)
    assert not list(run.path.rglob("*.pkl"))
    assert queue_of(run) == []
    assert capfd.readouterr() == ("", "")


def test_two_folders_of_one_configuration_do_not_take_each_others_jobs(slurm, stage, tmp_path):
    here, there = planned(stage.job(tmp_path / "here")), planned(stage.job(tmp_path / "there"))
    submission = replace(SMALL, sbatch=("hold",)).submit(here, CREW)
    assert here.run_id == there.run_id
    assert [entry.job for entry in queue_of(here)] == list(submission.jobs)
    assert queue_of(there) == []
    assert SMALL.attach(there, CREW) is None
    found = SMALL.attach(here, CREW)
    assert (found.jobs, found.ignored) == (submission.jobs, ("--sbatch",))
    found = replace(SMALL, sbatch=("hold",), partition="short").attach(here, replace(CREW, workers=9))
    assert found.ignored == ("--workers 9", "--partition short")
    with slurm.no_controller():
        assert status_of(here.path).state == "unknown"
        with pytest.raises(InputError, match=r"Unable to contact slurm controller|did not answer"):
            SMALL.attach(here, CREW)
        assert "# limits of partitions and arrays are left out of account" in SMALL.plan_text("extract", CREW, 5)


def test_what_was_cancelled_is_not_submitted_again(slurm, stage, tmp_path):
    job = stage.job(tmp_path / "store.zarr")

    def cancel(out, strike):
        queue = strike.when(lambda: (out / "run.json").exists() and queue_of(RunFolder.open(out)), "a job in the queue")
        slurm.run("scancel", queue[0].job)

    with pytest.raises(InputError, match=r"^SLURM: \d+ cancelled; repeat the command to go on$"):
        run_on_slurm(job, cancel, slurm=replace(SMALL, sbatch=("hold",)))
    assert len(list((job.out / "submissions").iterdir())) == 1


def test_what_would_fail_every_time_ends_the_rounds_and_is_told_by_status(slurm, stage, tmp_path):
    wrong = replace(SMALL, python="/no/such/python")
    with pytest.raises(InputError, match=r"--python /no/such/python cannot run a worker on .*No such file") as refusal:
        run_on_slurm(stage.job(tmp_path / "python.zarr", **BRIEF), slurm=wrong)
    assert len(list((tmp_path / "python.zarr" / "submissions").iterdir())) == 1
    last = status_of(tmp_path / "python.zarr").last_error
    assert last.error in str(refusal.value)
    assert last.log.endswith("_0_log.err")
    run = planned(stage.job(tmp_path / "killed.zarr", **BRIEF))
    killed = replace(SMALL, setup=("export PYTHONPATH=" + str(tmp_path),))
    (tmp_path / "sitecustomize.py").write_text("import os\nif 'SLURM_PROCID' in os.environ: os.kill(os.getpid(), 9)\n")
    (log,) = killed.submit(run, CREW).wait(lambda: None)
    last = status_of(run.path).last_error
    assert (last.log, last.error.endswith("task 0: Killed (SIGKILL; often more memory than --memory)")) == (
        str(log),
        True,
    )
