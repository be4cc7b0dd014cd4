"""What processes make comes back in order, with their errors; none outlives a killed command, none is waited for."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from lenscore.reports.parts.forked import results_of
from storage_layouts.errors import CorruptError, MachineError

WAITING = """
import os, sys, time
from pathlib import Path
from lenscore.reports.parts.forked import results_of
def wait(name):
    (Path(sys.argv[1]) / name).write_text(str(os.getpid()))
    time.sleep(600)
list(results_of([lambda: wait("one"), lambda: wait("two"), lambda: None], 2))
"""


def test_results_have_the_order_of_the_tasks_and_errors_come_through(tmp_path: Path) -> None:
    def late(number: int) -> tuple[int, int]:
        time.sleep(0.1 * (number == 0))
        return number, os.getpid()

    for processes in (1, 2):
        found = list(results_of([partial(late, number) for number in range(6)], processes))
        assert [number for number, _ in found] == list(range(6))
        assert len({pid for _, pid in found}) == processes
        assert (os.getpid() in {pid for _, pid in found}) == (processes == 1)

        def damaged() -> int:
            raise CorruptError(tmp_path, "3 bytes", "4 bytes")

        with pytest.raises(CorruptError) as error:
            list(results_of([lambda: 1, damaged, lambda: 3], processes))
        assert (error.value.file, error.value.found) == (str(tmp_path), "3 bytes")


def test_a_process_ended_by_the_system_is_one_line_with_the_remedy() -> None:
    with pytest.raises(MachineError, match=r"ended one of its processes.* fewer than 2 with --processes"):
        list(results_of([lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: time.sleep(0.1)], 2))


def test_no_process_outlives_a_killed_command(tmp_path: Path) -> None:
    command = subprocess.Popen([sys.executable, "-c", WAITING, str(tmp_path)])
    files = [tmp_path / "one", tmp_path / "two"]
    pids = [int(_soon(lambda path=path: path.exists() and path.read_text())) for path in files]
    command.kill()
    command.wait()
    for pid in pids:
        _soon(lambda pid=pid: not _runs(pid))


def _soon(value):
    until = time.monotonic() + 30
    while not (found := value()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie (in a container nobody may take its exit code)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
