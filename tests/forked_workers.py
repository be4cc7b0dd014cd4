"""Commands and workers of tests, forked from a process that has imported torch and transformers.

Their import takes a process longer than all that it does for a test. A forked one is a process of its own all the same,
with its own environment, folder, output, session, signals and exit code; it runs `python -m MODULE`, `python -c CODE`
or `python FILE` as Python does. So are made

- the local workers of a command that runs in the test's own process;
- what tests start by name, and its local workers, which are its children:

      done = run([sys.executable, "-m", "launch.cli", "verify", str(out)], capture_output=True, text=True)
      process = start([sys.executable, "-m", "launch.cli", "extract", *flags], stderr=subprocess.DEVNULL)

- the workers of SLURM jobs whose --python is tests/clusters/forked_python.py, which asks for them at `ADDRESS`.

Everything else starts as for a user; that start is under test in tests/launch/test_start_up.py, in
tests/clusters/test_local.py, in tests/clusters/test_slurm.py and in tests/clusters/test_slurm_blows.py.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
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
from contextlib import suppress
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

ADDRESS = "LENSCORE_TEST_FORKS"
"""Environment variable: the abstract socket at which processes are asked for."""

ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
"""Of a forked process that does not say otherwise: one thread, as the processes of tests share few cores."""

ENVIRONMENT = os.environ | ALONE
"""Of the process that others are forked from."""


@functools.cache
def address() -> str:
    """Where processes are asked for, see `ask`. Starts the process that they are forked from, which ends with this."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # Linux chooses an abstract name
        listener.listen(64)
        command = [sys.executable, __file__, str(listener.fileno())]
        subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
        return str(listener.getsockname()[1:].decode())


def ask(at: str, command: Sequence[str], env: dict[str, str], streams: Sequence[int], **more: Any) -> Any:
    """Ask for a Python process. Returns a file with two lines: its pid, then its exit code.

    Args:
        at: the address.
        command: the arguments of Python.
        env: the environment.
        streams: standard input, output and error.
        more: `folder`, where it runs; `session`, it leads one of its own; `leaves`, it is killed when the file is
            closed.

    """
    request = {"command": list(command), "environment": env, "folder": os.getcwd(), "session": False, "leaves": False}
    sent = json.dumps(request | more).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"\0{at}")
        socket.send_fds(connection, [len(sent).to_bytes(4, "big")], list(streams))
        connection.sendall(sent)
        return connection.makefile("r")


def start(
    command: Sequence[str],
    *,
    env: dict[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    text: bool = False,
    start_new_session: bool = False,
    **streams: Any,
) -> Any:
    """Start a Python process as `subprocess.Popen` does, which starts it if its imports might differ."""
    env = dict(os.environ) if env is None else env
    if command[0] != sys.executable or _imports_otherwise(env):
        more = {"cwd": cwd, "text": text, "start_new_session": start_new_session}
        return subprocess.Popen(list(command), env=env, **more, **streams)
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
    folder = os.fspath(cwd or os.getcwd())
    answers = ask(address(), command[1:], ALONE | env, theirs, folder=folder, session=start_new_session)
    for end in theirs:
        os.close(end)
    return Forked(answers, **ours)


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


class Forked:
    """What of a `subprocess.Popen` the local cluster and tests use."""

    def __init__(self, answers: Any, stdin: Any = None, stdout: Any = None, stderr: Any = None) -> None:
        self.stdin, self.stdout, self.stderr, self._answers = stdin, stdout, stderr, answers
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

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Forked:
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


def _serve(listener: socket.socket) -> dict[str, Any]:
    """Fork one process for each request. Returns in that process only, with what it was asked to be."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who waits for a process is the one between
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            os._exit(0)
        connection, _ = listener.accept()
        head, streams, _, _ = socket.recv_fds(connection, 4, 3)
        asked = json.loads(connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)) if streams else {}
        if not asked or os.fork():
            for descriptor in streams:
                os.close(descriptor)
            connection.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if process := os.fork():
            for descriptor in {*streams, 0, 1, 2}:
                os.close(descriptor)
            _watch(connection, process, asked["leaves"])
        connection.close()
        if asked["session"]:
            os.setsid()
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        for descriptor in streams:
            os.close(descriptor)
        os.chdir(asked["folder"])
        return asked


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


code: int | None = None
"""With which this process ends, if that is certain."""


def _become(command: list[str], environment: dict[str, str]) -> None:
    """Run `python ...` in this process, which is as Python is before it reads its arguments."""
    global code
    before = _pythonpath()
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [*_pythonpath(), *(place for place in sys.path if place not in before)]
    sys.orig_argv[:] = [sys.executable, *command]
    sys.modules.pop("sitecustomize", None)
    site.execsitecustomize()
    if _is_lens(command):
        sys.path.insert(0, os.getcwd())
        local = importlib.import_module("launch.clusters.local")
        del sys.path[0]
        local.subprocess = types.SimpleNamespace(Popen=_Child, PIPE=subprocess.PIPE)
        local.Local.prepare = lambda *_: None
    kind, *arguments = command
    try:
        if kind == "-m":
            sys.path.insert(0, os.getcwd())
            sys.argv[:] = arguments
            sys.modules.pop(arguments[0], None)
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
        code = 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            code = end.code or 0
        raise


def _pythonpath() -> list[str]:
    return [os.path.abspath(place) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]


def _is_lens(command: list[str]) -> bool:
    return command[:2] == ["-m", "launch.cli"] or os.path.basename(os.path.dirname(command[0])) == "launch"


@atexit.register
def _skip_finalization() -> None:
    """Leave out what a Python does last and what takes it seconds here: to free the modules that it shares."""
    if code is not None:
        for stream in (sys.stdout, sys.stderr):
            if stream:
                stream.flush()
        os._exit(code)


_OURS: set[int] = set()
"""This process's ends of the pipes to its workers."""


class _Child(Forked):
    """A worker that is forked from the very command that starts it."""

    def __init__(self, command: list[str], *, env: dict[str, str], stderr: Any, **_: Any) -> None:
        (stdin, to_worker), (from_worker, stdout) = os.pipe(), os.pipe()
        _OURS.update((to_worker, from_worker))
        self.returncode = None
        self.pid = os.fork()
        if self.pid:
            os.close(stdin)
            os.close(stdout)
            self.stdin, self.stdout, self.stderr = os.fdopen(to_worker, "w"), os.fdopen(from_worker), None
            return
        for number, descriptor in enumerate((stdin, stdout, stderr.fileno())):
            os.dup2(descriptor, number)
        for descriptor in {*_OURS, stdin, stdout}:
            os.close(descriptor)  # also of the workers before it, or these would not miss the command
        ended: Any = 1
        try:
            _become(command[1:], env)
        except SystemExit as end:
            ended = end.code or 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended)

    def poll(self) -> int | None:
        if self.returncode is None and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


if __name__ == "__main__":
    del sys.path[0]
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(asked["command"], asked["environment"])
