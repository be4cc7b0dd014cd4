"""The extract stage on real Ray: whatever is killed, the store ends up byte for byte that of an undisturbed run."""

from __future__ import annotations

import os
import random
import shlex
import signal
import sys
from pathlib import Path

import pytest
import ray
import torch

from benchmarks.chaos import differences
from jobs.extract_job import ExtractJob
from jobs.worker import WorkerOptions, run_worker
from launch.clusters import ray as ray_module
from launch.clusters.cluster import WorkerRequest
from launch.clusters.ray import RayCluster
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder
from tests.clusters.conftest import slow_workers
from tests.clusters.ray_cluster import parent, ray_test_cluster, wait_for
from tests.conftest import WORDS
from tests.forked_workers import start

pytestmark = pytest.mark.slow
PATIENCE = 120.0
CPU_CREW = WorkerRequest(2, True, WorkerOptions("cpu"))


@pytest.fixture(scope="module", autouse=True)
def unhurried_workers():
    """A shard takes workers on Ray some time in which they wait, so that not all are done before a test strikes."""
    with pytest.MonkeyPatch.context() as patch:
        slow_workers(patch, seconds=0.04)
        yield


@pytest.fixture(scope="module")
def cluster(unhurried_workers):
    with ray_test_cluster(dashboard=True) as started:
        yield started


@pytest.fixture(scope="module")
def settings(tiny_llm_folder, tmp_path_factory):
    """Of an extraction into 110 shards, so that something is left to do when the first are done."""
    dice = random.Random(0)
    corpus = tmp_path_factory.mktemp("ray") / "corpus.txt"
    corpus.write_text("".join(" ".join(dice.choices(WORDS, k=dice.randint(4, 12))) + "\n" for _ in range(400)))
    return {"model": str(tiny_llm_folder), "corpus": (corpus,), "layers": "1,2", "per_token": 40, "rows_per_shard": 8}


@pytest.fixture
def run(settings, tmp_path):
    """Planned, with nothing computed yet."""
    return planned(settings, tmp_path / "run.zarr")


@pytest.fixture(scope="module")
def undisturbed(settings, tmp_path_factory):
    run = planned(settings, tmp_path_factory.mktemp("ray") / "undisturbed.zarr")
    assert run_worker(run.path, WorkerOptions("cpu"), 0, 1).finished == 110
    return run.path


def planned(settings, out):
    job = ExtractJob(out=out, **settings)
    run = job.open_run()
    job.plan(run, lambda message: None)
    return run


@pytest.fixture
def driver(cluster, monkeypatch, tmp_path):
    """Makes this very process fit to be a driver of the cluster."""
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield RayCluster(ray_address=cluster.address)
    ray.shutdown()  # what a failed test has left connected would be the next one's


def command(run, *flags):
    config = run.config
    return [
        *(sys.executable, "-m", "launch.cli", "extract", "--model", config["model"], "--corpus", *config["corpus"]),
        *("--layers", config["layers"], "--per-token", str(config["per_token"])),
        *("--rows-per-shard", str(config["rows_per_shard"]), "--out", str(run.path)),
        *("--cluster", "ray", "--device", "cpu", "--workers", "2", *flags),
    ]


class Command:
    """The launching command, with what it says in a file."""

    def __init__(self, cluster, run, *flags):
        self.log = run.path.parent / "command.log"
        line = command(run, "--ray-address", cluster.address, *flags)
        with self.log.open("ab") as said:
            more = {"env": cluster.environment(), "stdout": said, "stderr": said, "start_new_session": True}
            self.process = start(line, **more)

    def finish(self):
        """Wait for its end, and return what it said."""
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()
        return self.log.read_text()


def computing(run, count=2):
    """The heartbeats of `count` workers that have begun, while most of the shards are still to do."""
    held = {}

    def all_held():
        # The first ones are held, or they would be done before the last one has started.
        for beat in run.heartbeats():
            if beat.get("device") and not beat["dead"] and beat["pid"] not in held:
                os.kill(beat["pid"], signal.SIGSTOP)
                held[beat["pid"]] = beat
        return len(held) == count

    wait_for(all_held, PATIENCE, f"{count} workers")
    for pid in held:
        os.kill(pid, signal.SIGCONT)
    wait_for(run.done, PATIENCE, "the first shard")
    assert run.missing()
    return list(held.values())


def wait_until_gone(workers):
    pids = [worker["pid"] for worker in workers]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 30, f"the end of the workers {pids}")


def test_killed_actors_are_replaced(cluster, run, undisturbed):
    command = Command(cluster, run)
    workers = computing(run)
    for worker in workers:
        os.kill(worker["pid"], signal.SIGKILL)
    said = command.finish()
    assert "worker 0 was lost" in said
    assert "worker 1 was lost" in said
    logs = sorted(run.path.glob("attempts/*.log"))
    assert len({log.name.rpartition("-")[0] for log in logs}) == 1  # within one round
    assert ["was lost" in log.read_text() for log in logs] == [True, True]
    assert differences(run.path, undisturbed) == []


def test_a_lost_node_costs_no_shard(cluster, run, undisturbed):
    node = cluster.nodes[1]
    command = Command(cluster, run)
    assert node.raylet in {parent(worker["pid"]) for worker in computing(run)}
    cluster.kill_node(node)
    try:
        assert "was lost" in command.finish()
    finally:
        cluster.start_node()
    assert differences(run.path, undisturbed) == []


def test_a_store_grows(cluster, undisturbed, tmp_path):
    """While an actor is killed; the bytes are those of one worker here."""
    more = tmp_path / "more.txt"
    more.write_text("\n".join(f"the {a} {b} and a {c}" for a in WORDS[:9] for b in WORDS for c in WORDS[:9]))
    config = RunFolder.open(undisturbed).config
    settings = {name: config[name] for name in ("model", "layers", "per_token", "rows_per_shard")}
    settings |= {"corpus": (more,), "add": (undisturbed,)}
    alone = planned(settings, tmp_path / "alone.zarr")
    assert run_worker(alone.path, WorkerOptions("cpu"), 0, 1).finished == alone.require_plan().shard_count
    run = planned(settings, tmp_path / "run.zarr")
    flags = ["--add", str(undisturbed), "--corpus", str(more), "--out", str(run.path), "--workers", "2"]
    line = [sys.executable, "-m", "launch.cli", "extract", *flags, "--cluster", "ray", "--device", "cpu"]
    with (tmp_path / "command.log").open("wb") as said:
        more_of_it = {"env": cluster.environment(), "stdout": said, "stderr": said, "start_new_session": True}
        process = start([*line, "--ray-address", cluster.address], **more_of_it)
    os.kill(computing(run)[0]["pid"], signal.SIGKILL)
    assert process.wait(PATIENCE) == 0, (tmp_path / "command.log").read_text()
    assert differences(run.path, alone.path) == []


def test_workers_end_with_a_killed_command_and_the_next_one_goes_on(cluster, run, undisturbed):
    command = Command(cluster, run)
    workers = computing(run)
    command.process.kill()
    command.process.wait()
    wait_until_gone(workers)
    assert run.missing()
    Command(cluster, run, "--workers", "1").finish()
    assert differences(run.path, undisturbed) == []


def test_a_stopped_ray_job_is_submitted_again(cluster, run, undisturbed, driver):
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(cluster.dashboard)
    entrypoint = shlex.join(command(run, "--workers", "1"))
    stopped = client.submit_job(entrypoint=entrypoint)
    workers = computing(run, 1)
    client.stop_job(stopped)
    wait_until_gone(workers)
    wait_for(lambda: client.get_job_status(stopped).is_terminal(), 30, "the end of the job")
    assert client.get_job_status(stopped) == JobStatus.STOPPED
    assert "repeat the command to go on" in client.get_job_logs(stopped)
    assert run.missing()
    again = client.submit_job(entrypoint=entrypoint)
    wait_for(lambda: client.get_job_status(again).is_terminal(), PATIENCE, "the end of the job")
    assert client.get_job_status(again) == JobStatus.SUCCEEDED, client.get_job_logs(again)
    assert differences(run.path, undisturbed) == []


def test_workers_without_a_place_are_told_of(driver, run, undisturbed, monkeypatch, capfd):
    monkeypatch.setattr(ray_module, "SECONDS_BETWEEN_NOTES", 1.0)
    wide = RayCluster(driver.ray_address, cpus_per_worker=4)
    assert wide.submit(run, WorkerRequest(3, True, WorkerOptions("cpu"))).wait(lambda: None) == []
    assert "1 of 3 workers wait for a place: each needs 4 CPU and 0 GPU, free" in capfd.readouterr().err
    assert differences(run.path, undisturbed) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="the fake GPUs would be real ones")
def test_a_worker_with_a_gpu_that_torch_cannot_use_refuses(driver, run):
    with pytest.raises(InputError, match=r"finds no CUDA device.*CUDA_VISIBLE_DEVICES: [0-3]\)"):
        driver.submit(run, WorkerRequest(1, True, WorkerOptions("auto"))).wait(lambda: None)
    assert not run.done()


def test_a_node_without_lenscore_says_so(driver, run, monkeypatch, tmp_path):
    tmp_path.joinpath("jobs.py").write_text("raise ImportError('not installed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(ray_module, "PASSED_ON", ("PYTHONPATH",))
    with pytest.raises(InputError, match=r"cannot import lenscore with .*python.* \(not installed\); expected"):
        driver.submit(run, CPU_CREW).wait(lambda: None)


def test_a_node_that_does_not_see_the_run_says_so(driver, run):
    run.path.joinpath("run.json").unlink()
    with pytest.raises(InputError, match="does not see this folder; expected one that all nodes share"):
        driver.submit(run, CPU_CREW).wait(lambda: None)


def test_by_default_there_are_as_many_workers_as_the_cluster_holds(driver, run):
    run.path.joinpath("run.json").unlink()  # so that they end at once
    submission = RayCluster(driver.ray_address, cpus_per_worker=2).submit(
        run, WorkerRequest(None, True, CPU_CREW.options)
    )
    assert submission.label.startswith("4 workers on the Ray cluster")
    with pytest.raises(InputError):
        submission.wait(lambda: None)


def test_workers_too_large_for_every_node_are_refused(driver, run):
    with pytest.raises(InputError, match="no node for a worker of 1 CPU and 5 GPU, the largest has 4 CPU and 4 GPU"):
        RayCluster(driver.ray_address, gpus_per_worker=5).submit(run, WorkerRequest(2, True, WorkerOptions("auto")))


def test_a_killed_head_ends_the_command_in_one_line_and_a_new_cluster_goes_on(settings, tmp_path, undisturbed):
    run = planned(settings, tmp_path / "run.zarr")
    with ray_test_cluster(nodes=1) as first:
        command = Command(first, run)
        for worker in computing(run):
            os.kill(worker["pid"], signal.SIGSTOP)  # or they would be done before anybody misses the head
        for pid in first.processes("gcs_server"):
            os.kill(pid, signal.SIGKILL)
        assert command.process.wait(PATIENCE) == 2
        said = command.log.read_text()
        assert f"error: the Ray cluster at {first.address} is gone; start it and repeat the command" in said
        assert "Traceback" not in said
    assert run.missing()
    with ray_test_cluster(nodes=1) as second:
        Command(second, run, "--stale-after", "5", "--workers", "1").finish()
    assert differences(run.path, undisturbed) == []
