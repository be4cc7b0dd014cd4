"""Work that runs on several threads, each of which computes alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def on_own_threads(work: Callable[[], None], threads: int) -> None:
    """Call `work` on so many threads at once and wait for all; the first error is raised here.

    torch splits every single operation among threads and waits for the slowest of them, at each. On a machine
    that others use too, most of the time goes into that waiting. So here every thread computes its operations alone.
    """
    if threads <= 1:
        work()
        return
    usual = torch.get_num_threads()

    def alone() -> None:
        torch.set_num_threads(1)  # of this thread, and the default of threads that begin from now on
        work()

    try:
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(alone) for _ in range(threads)]:
                done.result()
    finally:
        torch.set_num_threads(usual)
