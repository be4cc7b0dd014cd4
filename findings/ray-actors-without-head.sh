#!/usr/bin/env bash
# Ray: what still works in the seconds after the head's control service (gcs_server) has died?
# Guess, before the run: nothing. Calls to a living actor fail within seconds, for the control service knows where actors are.
# Seen: ten calls to the living actor, each with a megabyte, and a put and get work as before. Only a new actor is never placed: its
# first call waits without an error (here until the timeout of 8 s).
# What follows: an error of a call is no sign of a dead head, and silence is no sign of work. A launcher has to ask the head itself, and
# workers that are at work may be left to finish meanwhile.
set -euo pipefail
folder=$(mktemp -d /tmp/rXXXX); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0 numpy==2.4.6 2>/dev/null
PATH="$folder/venv/bin:$PATH" RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" - "$folder" <<'PY'
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import ray

folder = sys.argv[1]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
start = ["ray", "start", "--head", f"--port={port}", "--num-cpus=4", "--include-dashboard=false"]
subprocess.run(
    [*start, f"--temp-dir={folder}/t", "--node-ip-address=127.0.0.1"], check=True, stdout=subprocess.DEVNULL
)


def processes(word=""):
    """Our own: those whose command line names our folder."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = open(f"/proc/{pid}/cmdline").read()
        except OSError:
            continue
        if folder in line and word in line and int(pid) != os.getpid():
            yield int(pid)


@ray.remote(num_cpus=1)
class Adder:
    def __init__(self):
        self.total = 0

    def add(self, values):
        self.total += int(values.sum())
        return self.total


def outcome(call):
    began = time.monotonic()
    try:
        call()
        return "works"
    except Exception as error:
        return f"{type(error).__name__} after {time.monotonic() - began:.0f} s"


try:
    ray.init(address=f"127.0.0.1:{port}", log_to_driver=False, logging_level="ERROR")
    adder = Adder.remote()
    ones = np.ones(1_000_000, np.uint8)
    ray.get(adder.add.remote(ones))
    for pid in processes("gcs_server"):
        os.kill(pid, signal.SIGKILL)
    time.sleep(2)
    assert not list(processes("gcs_server"))
    found = {
        "ten calls to the living actor": outcome(lambda: ray.get([adder.add.remote(ones) for _ in range(10)], timeout=8)),
        "a megabyte put and read back": outcome(lambda: ray.get(ray.put(ones), timeout=8)),
        "a call to a new actor": outcome(lambda: ray.get(Adder.remote().add.remote(ones), timeout=8)),
    }
    print("ray", ray.__version__)
    for what, came in found.items():
        print(f"{what}: {came}")
    kinds = [came.partition(" ")[0] for came in found.values()]
    status = 0 if kinds == ["works", "works", "GetTimeoutError"] else 1
finally:
    sys.stdout.flush()
    for pid in processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
os._exit(status)
PY
