"""Processes of `python -m`, forked from one that has imported torch and transformers.

Their import takes a worker longer than all that it does for a test. A forked process has its own environment, folder,
output and exit code all the same, and runs its module as `python -m` does. So are made

- the local workers of a command that runs in the test's own process (`WorkerSource.start`);
- the workers of SLURM jobs whose --python is tests/clusters/forked_python.py, which asks for them at `ADDRESS`;
- commands that are asked for with `WorkerSource.start_command`, which fork their local workers from themselves.

Everything else starts as for a user: see tests/clusters/test_local.py, and test_the_command_may_leave_and_come_back in
tests/clusters/test_slurm.py.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

IMPORTED = (
    "numpy",
    "torch",
    "scipy.optimize",
    "pandas",
    "pyarrow.parquet",
    "PIL.Image",
    "openai",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.clip.image_processing_pil_clip",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
)
"""Foreign modules only: the project's own are imported by each worker."""

READ_AT_IMPORT = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "PYTHON", "TORCH", "OMP_", "MKL_", "LD_")
"""Environment variables by which such an import may differ."""

ADDRESS = "LENSCORE_TEST_FORKS"
"""Environment variable: the abstract socket at which processes are asked for."""

ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


class WorkerSource:
    """The process that others are forked from: started by the first of them, ended with this process."""

    def __init__(self) -> None:
        self._environment = dict(os.environ, **ALONE)

    @cached_property
    def address(self) -> str:
        """Where processes are asked for; see `ask`."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("")  # Linux chooses an abstract name
            listener.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())],
                env=self._environment,
                stdin=subprocess.PIPE,  # closed at the end of this process
                pass_fds=[listener.fileno()],
            )
            return str(listener.getsockname()[1:].decode())

    def start(self, command: list[str], *, env: dict[str, str], stderr: io.BufferedWriter, **pipes: Any) -> Any:
        """Start a worker as `subprocess.Popen` does, which starts it if its imports might differ."""
        if command[:3] != [sys.executable, "-m", "jobs.worker"] or _differ(env, self._environment):
            return subprocess.Popen(command, env=env, stderr=stderr, **pipes)
        (stdin, to_worker), (from_worker, stdout) = os.pipe(), os.pipe()
        answers = ask(self.address, command[2:], env, [stdin, stdout, stderr.fileno()])
        os.close(stdin)
        os.close(stdout)
        return Forked(answers, open(to_worker, "w"), open(from_worker))

    def start_command(
        self, command: list[str], environment: dict[str, str] | None = None, log: str | Path = os.devnull
    ) -> Forked:
        """Start `python -m launch.cli` as a group of processes of its own, with its local workers."""
        assert command[:3] == [sys.executable, "-m", "launch.cli"]
        with open(os.devnull, "rb") as nothing, open(log, "ab") as said:
            streams = [nothing.fileno(), said.fileno(), said.fileno()]
            return Forked(ask(self.address, command[2:], {**(environment or os.environ), **ALONE}, streams, group=True))


def ask(address: str, command: list[str], env: dict[str, str], streams: list[int], **more: bool) -> io.TextIOBase:
    """Ask for a process that runs `[MODULE, *arguments]`. Returns a file with two lines: its pid, then its exit code.

    Args:
        address: of the source.
        command: the module and its arguments.
        env: the environment.
        streams: standard input, output and error.
        more: `group`, it leads a group of processes; `leaves`, it is killed when the file is closed.

    """
    request = json.dumps({"command": command, "environment": env, "folder": os.getcwd(), **more}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"\0{address}")
        socket.send_fds(connection, [len(request).to_bytes(4, "big")], streams)
        connection.sendall(request)
        return connection.makefile("r")


class Forked:
    """What of a `subprocess.Popen` is used of such a process."""

    def __init__(self, answers: io.TextIOBase, stdin: Any = None, stdout: Any = None) -> None:
        self.stdin, self.stdout, self._answers = stdin, stdout, answers
        self.pid = int(answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._answers], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._answers.readline())
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _differ(environment: dict[str, str], other: dict[str, str]) -> bool:
    """Whether two environments differ in what an import may read."""
    changed = {name for name, _ in environment.items() ^ other.items()}
    return any(name.startswith(READ_AT_IMPORT) for name in changed)


def _serve(listener: socket.socket) -> Callable[[], None]:
    """Fork one process for each request. Returns in these only, with what each of them runs."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who waits for a process is the one between
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            os._exit(0)
        connection, _ = listener.accept()
        head, streams, _, _ = socket.recv_fds(connection, 4, 3)
        size = int.from_bytes(head, "big")
        asked = json.loads(connection.recv(size, socket.MSG_WAITALL)) if streams else {}
        if not asked or os.fork():
            for descriptor in streams:
                os.close(descriptor)
            connection.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if process := os.fork():
            for descriptor in {*streams, 0, 1, 2}:
                os.close(descriptor)
            if asked.get("group"):
                os.setpgid(process, process)
            _watch(connection, process, leaves=asked.get("leaves", False))
        connection.close()
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        for descriptor in set(streams):
            os.close(descriptor)
        os.chdir(asked["folder"])
        return lambda: _run(asked["command"], asked["environment"])


def _watch(connection: socket.socket, process: int, leaves: bool) -> None:
    """Tell who asked for a process how it fares."""
    with suppress(OSError):
        connection.sendall(b"%d\n" % process)
        end = os.pidfd_open(process)
        if leaves and end not in select.select([end, connection], [], [])[0]:
            os.kill(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with suppress(OSError):
        connection.sendall(b"%d\n" % code)
    os._exit(0)


def _run(command: list[str], environment: dict[str, str]) -> None:
    """What `python -m MODULE` does, in a process that has imported foreign modules."""
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(environment)
    places = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:] = ["", *places, *(place for place in sys.path[1:] if place not in before)]
    sys.argv, sys.orig_argv = command, [sys.executable, "-m", *command]
    sys.modules.pop("sitecustomize", None)
    with suppress(ImportError):
        importlib.import_module("sitecustomize")
    if command[0] == "launch.cli":
        from launch.clusters import local

        local.subprocess = SimpleNamespace(Popen=_Child, PIPE=subprocess.PIPE)  # type: ignore[assignment]
    sys.modules.pop(command[0], None)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


_OURS: set[int] = set()
"""This process's ends of the pipes to its workers."""


class _Child:
    """A worker that is forked from the very process that starts it; what of a `subprocess.Popen` the cluster uses."""

    def __init__(self, command: list[str], *, env: dict[str, str], stderr: io.BufferedWriter, **_: Any) -> None:
        (stdin, to_worker), (from_worker, stdout) = os.pipe(), os.pipe()
        _OURS.update((to_worker, from_worker))
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            os.close(stdin)
            os.close(stdout)
            self.stdin, self.stdout = os.fdopen(to_worker, "w"), os.fdopen(from_worker)
            return
        for number, descriptor in enumerate((stdin, stdout, stderr.fileno())):
            os.dup2(descriptor, number)
        for descriptor in {*_OURS, stdin, stdout}:
            os.close(descriptor)  # also of the workers before it, or these would not miss the command
        code: Any = 1
        try:
            _run(command[2:], env)
        except SystemExit as end:
            code = end.code
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            os._exit(code or 0)

    def poll(self) -> int | None:
        if self.returncode is None and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    _serve(socket.socket(fileno=int(sys.argv[1])))()
