"""Tasks on several threads, each of which runs torch single-threaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Task = TypeVar("Task")


def on_own_threads(work: Callable[[Iterable[Task]], None], tasks: Sequence[Task], threads: int) -> None:
    """Call `work` on several threads, in inference mode, each with a share of the tasks; the first error is raised.

    torch splits each operation among threads and waits for the slowest of them. On a shared machine most of the time is
    spent on that waiting, so here each thread computes its operations alone.
    """
    remaining = iter(tasks)  # shared, so each thread takes the next task
    threads = min(threads, len(tasks))
    usual = torch.get_num_threads()

    def run() -> None:
        if threads > 1:
            torch.set_num_threads(1)  # of this thread, and the default of threads that start from now on
        with torch.inference_mode():
            work(remaining)

    if threads <= 1:
        run()
        return
    try:
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(run) for _ in range(threads)]:
                done.result()
    finally:
        torch.set_num_threads(usual)
