"""A run with shards in every state."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.status_runs import finish, make_run


@pytest.fixture
def mixed(tmp_path):
    """Ten shards of four items: 0 to 2 done, 3 running, 4 and 5 stale, 6 and 7 failed, 8 and 9 pending."""
    run = make_run(tmp_path / "mixed")
    journal = run.attempt("alive", "/logs/alive.out")
    for shard in range(3):
        journal.started(shard)
        finish(run, shard)
        journal.finished(shard, 2.0, 4, 100)
    run.beat("alive", shard=3, device="cuda:0", gpu="2", stale_after=30.0, log="/logs/alive.out")
    run.beat("silent", shard=4, device="cuda:0", stale_after=30.0)
    os.utime(run.path / "heartbeats" / "silent.json", (time.time() - 100,) * 2)
    # A process that has ended: its heartbeat is fresh, but nobody beats any more.
    beat = "import sys; from storage_layouts.runs import RunFolder; RunFolder.open(sys.argv[1]).beat('gone', shard=5)"
    subprocess.run([sys.executable, "-c", beat, str(run.path)], check=True)
    for _ in range(3):
        run.note_failure(6, "alive", "Traceback:\n  deep inside\nRuntimeError: shard 6 is cursed", "/logs/six.out")
        journal.failed(6, "Traceback:\n  deep inside\nRuntimeError: shard 6 is cursed", 1.0)
    run.note_failure(7, "silent", "Traceback:\nOSError: once", "/logs/seven.out")
    return run
