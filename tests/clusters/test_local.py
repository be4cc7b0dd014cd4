"""The command of a local run is stopped: its workers end with it, say so, and the next command goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.chaos import differences
from launch import extract
from launch.run_status.reading import status_of
from tests.clusters.ray_cluster import wait_for
from tests.clusters.slurm_runs import at_work

pytestmark = pytest.mark.slow
LEFT = "ended with the command that had started it"


def test_workers_of_a_stopped_command_end_with_it_and_say_so(stage, undisturbed, slow_shards, tmp_path, monkeypatch):
    out = tmp_path / "store.zarr"
    flags = [*stage.flags(out), "--workers", "1", "--device", "cpu"]
    command = [sys.executable, "-m", "launch.cli", "extract", *flags]
    going_on = "repeat the command to go on\n"
    for blow, code, said in (
        (signal.SIGINT, 130, f"stopped; {going_on}"),
        (signal.SIGTERM, 143, f"stopped by SIGTERM; what is finished is kept; {going_on}"),
        (signal.SIGKILL, -9, ""),
    ):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as launcher:
            wait_for(lambda by=launcher: at_work(out) or by.poll() is not None, 300, "a worker")
            worker = at_work(out)[0]["pid"]
            launcher.send_signal(blow)
            told = launcher.stderr.read()
        assert launcher.returncode == code
        assert told.endswith(said)
        assert "Traceback" not in told
        wait_for(lambda gone=worker: not Path(f"/proc/{gone}").exists(), 60, "the end of the worker")
        status = status_of(out)
        assert (status.state, status.last_error.error) == ("stopped", LEFT)
    monkeypatch.undo()  # of the slow shards
    assert extract.main(flags) == 0
    assert differences(out, undisturbed) == []
