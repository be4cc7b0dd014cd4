"""A process that forks the workers of a command on this machine, after it has imported what they need.

Their imports (PyTorch, transformers) take longer than a small run. The server imports it all once, while the command
plans, and computes nothing, so a forked worker begins like a new process that has its imports behind it. The server
ends with the command.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

LATER = ("pydantic", "pandas")
"""What a worker imports later than with the module of its job; pandas by pyarrow."""
MODELS = ("lenscore.models.processors", "transformers.modeling_utils")
"""The same of a worker with a model."""


class WorkerServer:
    """The server of this process, which needs Linux."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a server that imports modules in an environment."""
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jobs.worker_server", str(theirs.fileno()), *modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a worker repeats an import that fails, and logs the error
                env=environment,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def runs(self) -> bool:
        """Whether it can be asked for workers."""
        return self._process.poll() is None

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], stderr: IO[bytes]) -> ForkedWorker:
        """Start a worker with the arguments of `jobs.worker`. Raises OSError if the server has ended."""
        (stdin, to_worker), (from_worker, stdout), (report, to_report) = (os.pipe() for _ in range(3))
        theirs = [stdin, stdout, stderr.fileno(), to_report]
        worker = ForkedWorker(os.fdopen(to_worker, "wb", 0), os.fdopen(from_worker), os.fdopen(report, "rb", 0))
        try:
            socket.send_fds(self._socket, [b"\n"], theirs)
        finally:
            for end in (stdin, stdout, to_report):
                os.close(end)
        asked = {"arguments": arguments, "environment": dict(environment), "folder": str(Path.cwd())}
        worker.stdin.write(json.dumps(asked).encode() + b"\n")
        return worker

    def close(self) -> None:
        """End the server. Its workers go on."""
        self._process.kill()
        self._process.wait()
        self._socket.close()


class ForkedWorker:
    """A worker, with what `subprocess.Popen` calls the same."""

    def __init__(self, stdin: IO[bytes], stdout: IO[str], report: IO[bytes]) -> None:
        """`report` gives two lines, its process id and later its exit code, or ends without if nobody knows it."""
        self.stdin, self.stdout, self._report = stdin, stdout, report
        self.pid: int | None = None
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit code; None if it has not ended."""
        while self.returncode is None and select.select([self._report], [], [], 0)[0]:
            line = self._report.readline()
            if line and self.pid is None:
                self.pid = int(line)
            else:
                self.returncode = int(line or 1)
        return self.returncode

    def wait(self) -> int:
        """Wait for the exit code and return it."""
        while (code := self.poll()) is None:
            select.select([self._report], [], [])
        return code

    def terminate(self) -> None:
        """End it with SIGTERM, or before its first step."""
        if self.poll() is not None:
            return
        if self.pid is None:
            self.stdin.close()
        else:
            os.kill(self.pid, signal.SIGTERM)


def _serve(command: socket.socket) -> NoReturn:
    """Fork a worker for each line from the command, which comes with its streams and the end of a pipe."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command and its workers
    child = signal.signal(signal.SIGCHLD, _reap)
    while True:
        _, streams, _, _ = socket.recv_fds(command, 1, 4)
        if not streams:
            os._exit(0)
        if not os.fork():
            command.close()
            signal.signal(signal.SIGCHLD, child)
            *streams, report = streams
            worker = os.fork()
            if not worker:
                signal.signal(signal.SIGINT, interrupt)
                os.close(report)
                _become_worker(streams)
            _report(worker, streams, report)
        for descriptor in streams:
            os.close(descriptor)


def _reap(*_: object) -> None:
    """Wait for those that have ended, so that their processor time counts as that of the command."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _report(worker: int, streams: Sequence[int], report: int) -> NoReturn:
    """Tell the command the process id of a worker, and its exit code."""
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(OSError):  # the command may have ended
        os.write(report, b"%d\n" % worker)
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    with contextlib.suppress(OSError):
        os.write(report, b"%d\n" % code)
    os._exit(0)


def _become_worker(streams: Sequence[int]) -> NoReturn:
    """Run `jobs.worker` in this process, as the first line of standard input says."""
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        line = b""
        while not line.endswith(b"\n"):
            if not (more := os.read(0, 65536)):
                os._exit(1)  # the command has ended
            line += more
        asked = json.loads(line)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        from jobs.worker import main

        code = main(asked["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        # Without the end of a Python, which frees one by one what the worker shares with the server.
        for output in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                output.flush()
        os._exit(code)


if __name__ == "__main__":
    gc.disable()  # what imports make stays
    for name in sys.argv[2:]:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()
    gc.enable()
    _serve(socket.socket(fileno=int(sys.argv[1])))
