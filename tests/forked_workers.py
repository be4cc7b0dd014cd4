"""Workers of the local cluster, forked from a process that has imported torch and transformers.

Their import takes a worker longer than all that it does for a test. A forked worker is a process of its own all the
same, with its own environment, folder, output and exit code; it runs `jobs.worker` as `python -m` does. Commands that a
test starts as processes start their workers as everywhere (tests/clusters/test_local.py, tests/launch/test_kills.py).
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
from functools import cached_property
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

ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


class WorkerSource:
    """The process that workers are forked from: started by the first of them, ended with this process."""

    def __init__(self) -> None:
        self._environment = dict(os.environ, **ALONE)

    @cached_property
    def _control(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        command = [sys.executable, __file__, str(theirs.fileno())]
        subprocess.Popen(command, env=self._environment, pass_fds=[theirs.fileno()])
        theirs.close()
        return ours

    def start(self, command: list[str], *, env: dict[str, str], stderr: io.BufferedWriter, **pipes: Any) -> Any:
        """Start a worker as `subprocess.Popen` does, which starts it if its imports might differ."""
        if command[:3] != [sys.executable, "-m", "jobs.worker"] or _differ(env, self._environment):
            return subprocess.Popen(command, env=env, stderr=stderr, **pipes)
        ends = [os.pipe() for _ in range(3)]
        (stdin, to_worker), (from_worker, stdout), (codes, code) = ends
        request = json.dumps({"arguments": command[3:], "environment": env, "folder": os.getcwd()}).encode()
        socket.send_fds(
            self._control, [len(request).to_bytes(4, "big") + request], [stdin, stdout, stderr.fileno(), code]
        )
        for end in (stdin, stdout, code):
            os.close(end)
        return _Worker(open(to_worker, "w"), open(from_worker), open(codes))


class _Worker:
    """What of a `subprocess.Popen` the local cluster uses."""

    def __init__(self, stdin: io.TextIOBase, stdout: io.TextIOBase, codes: io.TextIOBase) -> None:
        self.stdin, self.stdout, self._codes = stdin, stdout, codes
        self.pid = int(codes.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._codes], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._codes.readline())
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


def _differ(environment: dict[str, str], other: dict[str, str]) -> bool:
    """Whether two environments differ in what an import may read."""
    changed = {name for name, _ in environment.items() ^ other.items()}
    return any(name.startswith(READ_AT_IMPORT) for name in changed)


def _serve(control: socket.socket) -> None:
    """Fork one worker for each request. Returns in the worker only, which `python -m jobs.worker` then is."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who waits for a worker is the process between
    while True:
        head, descriptors, _, _ = socket.recv_fds(control, 4, 4)
        if not head:
            os._exit(0)
        size, request = int.from_bytes(head, "big"), b""
        while len(request) < size:
            request += control.recv(size - len(request))
        if os.fork():
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        *streams, code = descriptors
        if worker := os.fork():
            for descriptor in streams:
                os.close(descriptor)
            os.write(code, b"%d\n" % worker)
            os.write(code, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
            os._exit(0)
        os.close(code)
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        asked = json.loads(request)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        sys.argv = ["jobs.worker", *asked["arguments"]]
        return


if __name__ == "__main__":
    sys.path[0] = ""  # as for `python -m`
    for name in IMPORTED:
        importlib.import_module(name)
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("jobs.worker", run_name="__main__", alter_sys=True)
