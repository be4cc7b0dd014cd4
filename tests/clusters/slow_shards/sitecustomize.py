"""Before a worker computes a shard of an extraction or a planning it waits: the shard takes long and no processor."""

import os
import sys

if any(word in " ".join(sys.orig_argv) for word in ("jobs.worker", "submitit", "default_worker.py")):
    import time

    from jobs.extract_job import ExtractWorker
    from jobs.planning_worker import PlanningWorker

    def slowly(run):
        def run_slowly(worker, shard, *progress):
            time.sleep(float(os.environ["LENSCORE_TEST_SHARD_SECONDS"]))
            return run(worker, shard, *progress)

        return run_slowly

    for kind in (ExtractWorker, PlanningWorker):
        kind.run = slowly(kind.run)
