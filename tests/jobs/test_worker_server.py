"""Workers that are forked: what they say, how they end, and what becomes of them without their command or server."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.worker import LEFT
from jobs.worker_server import WorkerServer
from tests.clusters.ray_cluster import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")


@pytest.fixture
def server() -> Iterator[WorkerServer]:
    server = WorkerServer([], os.environ)
    yield server
    server.close()


@pytest.fixture
def unreadable_run(tmp_path: Path) -> str:
    """A run folder in which a worker waits for ever."""
    os.mkfifo(tmp_path / "run.json")
    return str(tmp_path)


def test_a_forked_worker_answers_as_one_of_its_own(server: WorkerServer, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        refused = server.start([str(tmp_path / "gone")], os.environ, log)
        wrong = server.start(["run", "--part"], {**os.environ, "COLUMNS": "60"}, log)
    assert refused.wait() == 2
    assert refused.stdout.read().strip() == f"{tmp_path / 'gone'}: not a run folder (no such folder)"
    assert (wrong.wait(), wrong.stdout.read()) == (2, "")
    assert "--part: expected one argument" in (tmp_path / "log").read_text()


def test_how_forked_workers_end(server: WorkerServer, unreadable_run: str, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        killed, ended, left = (server.start([unreadable_run, "--leave-with-parent"], os.environ, log) for _ in range(3))
    wait_for(lambda: killed.poll() is None and killed.pid, 60, "a worker")
    os.kill(killed.pid or 0, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    wait_for(lambda: ended.poll() is None and ended.pid, 60, "a worker")
    ended.terminate()
    assert ended.wait() == -signal.SIGTERM
    left.stdin.close()  # as when the command is killed
    assert left.wait() == 1
    assert (tmp_path / "log").read_text() == f"{LEFT}\n"


def test_a_server_that_was_killed_starts_none_and_its_workers_go_on(
    server: WorkerServer, unreadable_run: str, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("wb") as log:
        worker = server.start([unreadable_run, "--leave-with-parent"], os.environ, log)
        wait_for(lambda: worker.poll() is None and worker.pid, 60, "a worker")
        server._process.kill()
        server._process.wait()
        assert not server.runs()
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            server.start([unreadable_run], os.environ, log)
    assert worker.poll() is None
    worker.terminate()
    assert worker.wait() == -signal.SIGTERM
