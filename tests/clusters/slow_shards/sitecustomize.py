"""Before a worker computes a shard of an extraction or a planning it waits: the shard takes long and no processor.

A search of rows that are read from disk waits too, at its first part, and says so by a file with its process' number.
"""

import os
import sys

if any(word in " ".join(sys.orig_argv) for word in ("jobs.worker", "submitit", "default_worker.py")):
    import time
    from pathlib import Path

    from jobs.extract_job import ExtractWorker
    from jobs.planning_worker import PlanningWorker
    from lenscore.index import device_shares

    SECONDS = float(os.environ["LENSCORE_TEST_SHARD_SECONDS"])

    def slowly(run):
        def run_slowly(worker, shard, *progress):
            time.sleep(SECONDS)
            return run(worker, shard, *progress)

        return run_slowly

    def streamed_slowly(parts, device, streamed=device_shares._streamed):
        for number, part in enumerate(streamed(parts, device)):
            if number == 0 and (folder := os.environ.get("LENSCORE_TEST_SEARCHES")):
                searching = Path(folder, str(os.getpid()))
                searching.touch()
                time.sleep(SECONDS)
                searching.unlink()
            yield part

    for kind in (ExtractWorker, PlanningWorker):
        kind.run = slowly(kind.run)
    device_shares._streamed = streamed_slowly
