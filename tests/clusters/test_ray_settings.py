"""What `--cluster ray` refuses before any cluster is asked, and how workers are fitted into nodes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.worker import WorkerOptions
from launch import extract, judge
from launch.clusters.cluster import WorkerRequest
from launch.clusters.ray import RayCluster
from launch.clusters.ray_connection import WorkerSize
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder
from tests.clusters.ray_cluster import free_port


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", "extract", {}, {})


def crew(device="cpu"):
    return WorkerRequest(2, True, WorkerOptions(device))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (None, "expected --ray-address HOST:PORT"),
        ("http://127.0.0.1:8265", "expected HOST:PORT"),
        ("127.0.0.1:{closed}", "no Ray cluster answers there"),
        ("127.0.0.1:{silent}", "something answers there, but not a Ray cluster"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(run, monkeypatch, address, message):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as closing:
        closed = closing.getsockname()[1]
        closing.close()
        address = address and address.format(closed=closed, silent=silent.getsockname()[1])
        with pytest.raises(InputError, match=f"(?i){message}"):
            RayCluster(address).submit(run, crew())
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("cpus", "gpus", "fits"),
    [(1, 0, 16), (3, 0, 5), (1, 1, 4), (1, 0.4, 8), (2, 0.1, 8), (1, 3, 1), (1, 5, 0), (17, 0, 0)],
)
def test_how_often_a_worker_fits_into_a_node_of_16_cpus_and_4_gpus(cpus, gpus, fits):
    assert WorkerSize(cpus, gpus).times_in(WorkerSize(16, 4)) == fits


@pytest.mark.parametrize(
    ("settings", "device", "message"),
    [
        ({"gpus_per_worker": 1.5}, "auto", "--gpus-per-worker: found 1.5, expected a fraction of one GPU"),
        ({"gpus_per_worker": -1}, "auto", "--gpus-per-worker: found -1"),
        ({"gpus_per_worker": float("nan")}, "auto", "--gpus-per-worker: found nan"),
        ({"gpus_per_worker": 0}, "cuda", "--device cuda with --gpus-per-worker 0"),
        ({"cpus_per_worker": 0}, "cpu", "--cpus-per-worker: found 0, expected a number above 0"),
    ],
)
def test_sizes_that_no_worker_can_have_are_refused(run, settings, device, message):
    with pytest.raises(InputError, match=message):
        RayCluster("127.0.0.1:1", **settings).submit(run, crew(device))


def test_gpus_that_no_worker_would_use_are_not_asked_for():
    assert RayCluster(gpus_per_worker=8)._size(crew("cpu")) == WorkerSize(1, 0)
    assert RayCluster(gpus_per_worker=8)._size(crew("auto")) == WorkerSize(1, 8)


def test_a_relative_path_in_a_ray_job_is_refused(monkeypatch):
    paths = {"--corpus /a.txt": Path("/a.txt"), "--model m": Path("m"), "--out runs/a": Path("runs/a")}
    inside = WorkerRequest(2, True, WorkerOptions("cpu"), paths)
    with socket.create_server(("127.0.0.1", 0)) as closing:
        ray = RayCluster(f"127.0.0.1:{closing.getsockname()[1]}")
    with pytest.raises(InputError, match="no Ray cluster answers there"):
        ray.check(inside)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    relative = f"^--model m, --out runs/a: relative to {Path.cwd()}, where Ray started"
    with pytest.raises(InputError, match=f"{relative}.* as in --model /SHARED/m --out /SHARED/runs/a$"):
        ray.check(inside)


def test_a_relative_folder_of_a_model_in_a_ray_job_is_refused_and_a_hub_name_is_not(monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "model").mkdir(parents=True)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with socket.create_server(("127.0.0.1", 0)) as closing:
        address = f"127.0.0.1:{closing.getsockname()[1]}"
    flags = ["--corpus", "/a.txt", "--out", str(tmp_path / "out"), "--cluster", "ray", "--ray-address", address]
    for model, words in {
        "own/model": "--model own/model: relative to ",
        "./new": "--model new: relative to ",
        "a/b/c": "--model a/b/c: relative to ",
        "owner/name": "no Ray cluster answers there",
        str(tmp_path / "own"): "no Ray cluster answers there",
    }.items():
        assert extract.main(["--model", model, *flags]) == 2
        assert words in capfd.readouterr().err
    judged = ["--results", "/results", "--ledger", "ledger", "--judge", "truth"]
    assert judge.main([*judged, *flags[2:]]) == 2
    assert "--ledger ledger: relative to " in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_goes_away_ends_the_command_with_one_line():
    code = (
        "import sys, threading; from launch.clusters.ray_connection import leave_when_gone; "
        "leave_when_gone(sys.argv[1], threading.Event(), 0.3, 0.05)"
    )
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        watching = subprocess.Popen([sys.executable, "-c", code, address], stderr=subprocess.PIPE, text=True)
        head.settimeout(60)
        for _ in range(10):
            head.accept()[0].close()
        assert watching.poll() is None
    _, said = watching.communicate(timeout=60)
    assert watching.returncode == 2
    assert said == f"error: the Ray cluster at {address} is gone; start it and repeat the command\n"


def test_no_two_parts_of_a_test_cluster_are_given_the_same_port():
    ports = [free_port() for _ in range(1000)]
    assert len(set(ports)) == 1000
