"""Commands and workers of tests, forked from a process that has imported torch and transformers.

Their import takes a process longer than all that it does for a test. A forked one is a process of its own all the same,
with its own environment, folder, output, session, signals and exit code; it runs `python -m MODULE`, `python -c CODE`
or `python FILE` as Python does. The start of Python itself is under test in tests/launch/test_start_up.py, in
tests/clusters/test_local.py and in tests/launch/test_kills.py.

    done = run([sys.executable, "-m", "launch.cli", "verify", str(out)], capture_output=True, text=True)
    process = start([sys.executable, "-m", "launch.cli", "extract", *flags], stderr=subprocess.DEVNULL)
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import site
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Sequence
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
"""Foreign modules only: the project's own are imported by each process."""

READ_AT_IMPORT = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "PYTHON", "TORCH", "OMP_", "MKL_", "LD_")
"""Environment variables by which such an import may differ."""

ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
"""Of a forked process that does not say otherwise: one thread, as the processes of tests share few cores."""

ENVIRONMENT = os.environ | ALONE
"""Of the process that others are forked from."""


def start(command: Sequence[str], **options: Any) -> Any:
    """Start a Python process as `subprocess.Popen` does, which starts it if its imports might differ.

    Args:
        command: `sys.executable` and its arguments.
        options: of those of Popen env, cwd, stdin, stdout, stderr, text and start_new_session.

    Returns:
        What of a Popen tests use.

    """
    return _source().start(list(command), **options)


def run(
    command: Sequence[str],
    check: bool = False,
    capture_output: bool = False,
    timeout: float | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a Python process to its end as `subprocess.run` does; the options are those of `start`."""
    text = options.pop("text", False)
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        files = {"stdout": stdout, "stderr": stderr}
        captured = [name for name in files if capture_output or options.get(name) == subprocess.PIPE]
        process = start(command, **options | {name: files[name] for name in captured})
        try:
            process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        said = {}
        for name in captured:
            files[name].seek(0)
            said[name] = files[name].read().decode() if text else files[name].read()
    done = subprocess.CompletedProcess(command, process.returncode, **said)
    if check:
        done.check_returncode()
    return done


class ForkSource:
    """A process that others are forked from; it ends with the one that asks it."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def start(
        self,
        command: list[str],
        *,
        env: dict[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        text: bool = False,
        start_new_session: bool = False,
        **streams: Any,
    ) -> Any:
        """See `start`."""
        env = dict(os.environ) if env is None else env
        if command[0] != sys.executable or _imports_otherwise(env):
            more = {"cwd": cwd, "text": text, "start_new_session": start_new_session}
            return subprocess.Popen(command, env=env, **more, **streams)
        request = {"command": command, "environment": env, "folder": os.fspath(cwd or os.getcwd())}
        ours: dict[str, Any] = {}
        theirs: list[int] = []
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            given = streams.get(name)
            if given == subprocess.PIPE:
                ends = os.pipe()
                write = name == "stdin"
                ours[name] = os.fdopen(ends[write], ("w" if write else "r") + ("" if text else "b"))
                theirs.append(ends[not write])
            elif given == subprocess.STDOUT:
                theirs.append(os.dup(theirs[1]))
            elif given == subprocess.DEVNULL:
                theirs.append(os.open(os.devnull, os.O_RDWR))
            else:
                theirs.append(os.dup(number if given is None else given if isinstance(given, int) else given.fileno()))
        codes, code = os.pipe()
        sent = json.dumps(request | {"session": start_new_session}).encode()
        socket.send_fds(self._control, [len(sent).to_bytes(4, "big") + sent], [*theirs, code])
        for end in (*theirs, code):
            os.close(end)
        return ForkedProcess(command, ours, open(codes))


@functools.cache
def _source() -> ForkSource:
    ours, theirs = socket.socketpair()
    subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], env=ENVIRONMENT, pass_fds=[theirs.fileno()])
    theirs.close()
    return ForkSource(ours)


class ForkedProcess:
    """What of a `subprocess.Popen` the local cluster and tests use."""

    def __init__(self, command: list[str], streams: dict[str, Any], codes: io.TextIOBase) -> None:
        self.args, self._codes = command, codes
        self.stdin, self.stdout, self.stderr = (streams.get(name) for name in ("stdin", "stdout", "stderr"))
        self.pid = int(codes.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._codes], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._codes], [], [], timeout)[0]:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._codes.readline())
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> ForkedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


def _imports_otherwise(environment: dict[str, str]) -> bool:
    """Whether an import may differ in this environment. PYTHONPATH is left out, for a forked process reads it anew."""
    changed = {name for name, _ in (ALONE | environment).items() ^ ENVIRONMENT.items()}
    return any(name.startswith(READ_AT_IMPORT) for name in changed - {"PYTHONPATH"})


def _serve(control: socket.socket) -> list[str]:
    """Fork one process for each request. Returns in that process only: the command that it then is."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who waits for a process is the one between
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
        signal.signal(signal.SIGINT, signal.default_int_handler)
        asked = json.loads(request)
        *streams, code = descriptors
        if process := os.fork():
            for descriptor in streams:
                os.close(descriptor)
            os.write(code, b"%d\n" % process)
            os.write(code, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
            os._exit(0)
        os.close(code)
        if asked["session"]:
            os.setsid()
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(asked["folder"])
        others = [place for place in sys.path if place not in _pythonpath()]
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.path[:] = [*_pythonpath(), *others]
        return asked["command"]


def _pythonpath() -> list[str]:
    return [os.path.abspath(place) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]


code: int | None = None
"""With which this process ends, if that is certain."""


def _become(command: list[str]) -> None:
    """Run `python ...` in this process, which is as Python is before it reads its arguments."""
    sys.orig_argv[:] = command
    sys.modules.pop("sitecustomize", None)
    site.execsitecustomize()
    kind, *arguments = command[1:]
    if kind == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv[:] = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path.insert(0, "")
        sys.argv[:] = ["-c", *arguments[1:]]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(arguments[0], "<string>", "exec"), main.__dict__)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        sys.argv[:] = [kind, *arguments]
        runpy.run_path(kind, run_name="__main__")


def _is_lens(command: list[str]) -> bool:
    return command[1:3] == ["-m", "launch.cli"] or os.path.basename(os.path.dirname(command[1])) == "launch"


@atexit.register
def _skip_finalization() -> None:
    """Leave out what a Python does last and what takes it seconds here: to free the modules that it shares."""
    if code is not None:
        for stream in (sys.stdout, sys.stderr):
            if stream:
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    del sys.path[0]
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    if _is_lens(asked):  # its workers are forked too, from a copy of this process that belongs to it
        ours, theirs = socket.socketpair()
        if os.fork():
            theirs.close()
            sys.path.insert(0, os.getcwd())
            local = importlib.import_module("launch.clusters.local")
            del sys.path[0]
            local.subprocess = types.SimpleNamespace(Popen=ForkSource(ours).start, PIPE=subprocess.PIPE)
        else:
            ours.close()
            asked = _serve(theirs)
    try:
        _become(asked)
        code = 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            code = end.code or 0
        raise
