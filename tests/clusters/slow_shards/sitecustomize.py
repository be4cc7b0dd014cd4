"""Before a worker computes a shard of an extraction it waits, so that the shard takes long and no processor."""

import os
import sys

if any(word in " ".join(sys.orig_argv) for word in ("jobs.worker", "submitit")):
    import time

    from jobs.extract_job import ExtractWorker

    run = ExtractWorker.run

    def run_slowly(worker, shard, *progress):
        time.sleep(float(os.environ["LENSCORE_TEST_SHARD_SECONDS"]))
        return run(worker, shard, *progress)

    ExtractWorker.run = run_slowly
