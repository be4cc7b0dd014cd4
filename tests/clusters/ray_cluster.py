"""A real Ray cluster on this machine: a head with its dashboard, further raylets, fake GPUs; all is ended by pid."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

RAY = Path(sys.executable).parent / "ray"
MARK = "LENSCORE_TEST_RAY"
"""In the environment of everything that belongs to the test cluster, so that its processes can be told from others."""
START_SECONDS, STOP_SECONDS = 500.0, 20.0
"""Of the first for one node, which a busy machine takes minutes to start; one that cannot start ends by itself."""
PATIENT = {"RAY_gcs_server_port_wait_time_s": "300", "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300"}
PORTS = range(20000, 32768)
"""Above those that Ray gives its own workers (10002 to 19999), below those that Linux gives whoever asks for any."""
NODE_LOSS = {"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 0}
"""A lost node is noticed within 2 s, not within half a minute."""
NO_SPARE_WORKERS = {"prestart_worker_first_driver": False}
"""A worker with environment variables of its own never is one of those that a node starts in advance."""

_given: set[int] = set()


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until a condition holds; the test fails, saying what it waited for, if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


@dataclass
class RayNode:
    """One `ray start`: the command, and the raylet that it keeps."""

    process: subprocess.Popen[bytes]
    raylet: int


@dataclass
class RayTestCluster:
    """Where the cluster listens, how its nodes are started and ended, and which processes it has."""

    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    port: int = 0
    dashboard_port: int = 0
    nodes: list[RayNode] = field(default_factory=list)

    @property
    def address(self) -> str:
        """What `--ray-address` takes."""
        return f"127.0.0.1:{self.port}"

    @property
    def dashboard(self) -> str:
        """What `ray job submit --address` takes."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    def environment(self, **more: str) -> dict[str, str]:
        """For every process that speaks with the cluster: offline, quiet, and the same authentication on both sides."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "CUDA_"))}
        return kept | {
            MARK: self.mark,
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1",
            "HF_HUB_OFFLINE": "1",
            **PATIENT,
            **more,
        }

    def start_head(self, cpus: int = 4, gpus: int = 4, dashboard: bool = True) -> RayNode:
        """The first node, with GCS and, for `ray job submit`, the dashboard."""
        self.port, self.dashboard_port = free_port(), free_port()
        node = self._start(
            *("--head", f"--port={self.port}", f"--ray-client-server-port={free_port()}", "--no-monitor"),
            *(f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--include-dashboard={str(dashboard).lower()}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard_port}"),
            f"--system-config={json.dumps(NODE_LOSS | NO_SPARE_WORKERS)}",
        )
        if dashboard:
            wait_for(self._dashboard_answers, START_SECONDS, "the Ray dashboard")
        return node

    def start_node(self, cpus: int = 4, gpus: int = 4, **environment: str) -> RayNode:
        """A further raylet."""
        return self._start(f"--address={self.address}", f"--num-cpus={cpus}", f"--num-gpus={gpus}", **environment)

    def kill_node(self, node: RayNode) -> None:
        """SIGKILL the raylet and its workers, as if the machine had lost its power."""
        os.kill(node.raylet, signal.SIGSTOP)  # or it would start others
        workers = [pid for pid in self.processes() if parent(pid) == node.raylet]
        for pid in (node.raylet, *workers):
            _kill(pid)
        node.process.wait(STOP_SECONDS)
        self.nodes.remove(node)

    def processes(self, *words: str) -> list[int]:
        """The running processes of the cluster whose command line holds all these words."""
        mark = f"{MARK}={self.mark}".encode()
        return [pid for pid in _pids() if mark in _proc(pid, "environ") and all(w in _command(pid) for w in words)]

    def stop(self) -> None:
        """End everything that belongs to the cluster, whatever state it is in."""
        for node in reversed(self.nodes):
            node.process.terminate()
        for node in self.nodes:
            try:
                node.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                node.process.kill()
        for _ in range(100):
            left = self.processes()
            if not left:
                break
            for pid in left:
                _kill(pid)
            time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, *flags: str, **environment: str) -> RayNode:
        before = set(self.processes("raylet/raylet"))
        ports = [
            f"--{name}={free_port()}"
            for name in (
                *("node-manager-port", "object-manager-port", "dashboard-agent-listen-port"),
                *("dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port"),
            )
        ]
        log = self.folder / f"start-{len(self.nodes)}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [
                    *(str(RAY), "start", "--block", *flags, *ports, "--node-ip-address=127.0.0.1"),
                    *(f"--temp-dir={self.folder}", "--disable-usage-stats", f"--object-store-memory={80 * 2**20}"),
                    "--include-log-monitor=false",  # it sends the workers' output to drivers, which ask for none
                ],
                env=self.environment(**environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def is_up() -> bool:
            assert process.poll() is None, f"ray start ended:\n{log.read_text(errors='replace')}"
            return b"Ray runtime started" in log.read_bytes()

        node = RayNode(process, 0)
        self.nodes.append(node)
        wait_for(is_up, START_SECONDS, "ray start")
        (node.raylet,) = set(self.processes("raylet/raylet")) - before
        return node

    def _dashboard_answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.dashboard}/api/version", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextlib.contextmanager
def ray_test_cluster(nodes: int = 2, dashboard: bool = False) -> Iterator[RayTestCluster]:
    """Nodes of 4 CPUs and 4 fake GPUs each. Skips without Ray, fails if it is required."""
    if not RAY.exists():
        message = f"no Ray in this environment: {RAY}"
        if os.environ.get("CLUSTER_TESTS") == "require":
            pytest.fail(message)
        pytest.skip(message)
    # Directly below /tmp: the paths of Ray's sockets must stay below 107 bytes.
    cluster = RayTestCluster(Path(tempfile.mkdtemp(prefix="ray", dir="/tmp")))
    try:
        cluster.start_head(dashboard=dashboard)
        for _ in range(nodes - 1):
            cluster.start_node()
        yield cluster
    finally:
        cluster.stop()


def free_port() -> int:
    """A port that nobody listens at and that no earlier call has returned: Ray takes them all only later."""
    while True:
        port = secrets.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def parent(pid: int) -> int:
    """The process that this one is a child of; 0 if it is gone."""
    stat = _proc(pid, "stat")
    return int(stat.rpartition(b")")[2].split()[1]) if stat else 0


def _pids() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def _proc(pid: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return b""


def _command(pid: int) -> str:
    return _proc(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace")


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
