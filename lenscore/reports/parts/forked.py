"""Parts of a report that do not depend on each other, made by several processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

from storage_layouts.errors import MachineError

Result = TypeVar("Result")

_tasks: Sequence[Callable[[], Any]] = ()  # of a forked process


def results_of(tasks: Sequence[Callable[[], Result]], processes: int) -> Iterator[Result]:
    """Yields what the tasks return, in their order. What a task raises is raised here.

    Tasks may hold anything, because processes are forked; what they return must be picklable. With one process, and
    where forking is not safe (outside Linux), each task runs here when its result is asked for.

    Raises:
        MachineError: a process was ended from outside.

    """
    count = min(processes, len(tasks)) if sys.platform == "linux" else 1
    if count <= 1:
        yield from (task() for task in tasks)
        return
    try:
        with ProcessPoolExecutor(count, get_context("fork"), _begin, (tasks,)) as pool:
            yield from pool.map(_run, range(len(tasks)))
    except BrokenProcessPool as error:
        cause = "the system ended one of its processes, most often because memory ran out"
        raise MachineError("lens report", cause, f"try fewer than {count} with --processes") from error


def _begin(tasks: Sequence[Callable[[], Any]]) -> None:
    global _tasks
    _tasks = tasks
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent cancels what has not begun
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not as the parent
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A killed parent takes no leave, and a pool's process would wait for its next task for ever."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _run(place: int) -> Any:
    return _tasks[place]()
