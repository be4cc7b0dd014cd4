#!/usr/bin/env bash
# Ray: a matrix in the object store, as numpy arrays of 32- and 16- and 8-bit floats (the latter of ml_dtypes).
# Guess, before the run: every worker reads it in place, without a copy and therefore read-only, whatever the type of its numbers.
# Seen: float32 and float16 are read in place. Arrays of bfloat16 and float8 come as a writable copy of their own each time they are asked
# for: Python's buffer protocol has no letter for these types, so numpy pickles the numbers into the stream and not beside it (pickle's
# protocol 5). The same bytes as uint16 are read in place, and viewed as bfloat16 they stay there.
# What follows: every get of a matrix of bfloat16 takes its memory once more, and writing into it is no error. Our workers map files.
set -euo pipefail
folder=$(mktemp -d /tmp/rXXXX); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0 ml_dtypes==0.6.0 numpy==2.4.6 2>/dev/null
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" - "$folder" <<'PY'
import importlib.metadata as metadata
import pickle
import sys

import ml_dtypes
import numpy as np
import ray

print(*(f"{name} {metadata.version(name)}" for name in ("ray", "ml_dtypes", "numpy")))
options = {"num_cpus": 1, "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
ray.init(_temp_dir=f"{sys.argv[1]}/t", object_store_memory=100 << 20, **options)
MATRICES = {
    "float32": np.ones(1_000_000, np.float32),
    "float16": np.ones(1_000_000, np.float16),
    "bfloat16": np.ones(1_000_000, ml_dtypes.bfloat16),
    "float8_e4m3fn": np.ones(1_000_000, ml_dtypes.float8_e4m3fn),
    "bfloat16 as uint16": np.ones(1_000_000, ml_dtypes.bfloat16).view(np.uint16),
}
changed = False
for name, matrix in MATRICES.items():
    stored = ray.put(matrix)
    one, other = ray.get(stored), ray.get(stored)
    if name == "bfloat16 as uint16":
        one, other = one.view(ml_dtypes.bfloat16), other.view(ml_dtypes.bfloat16)
    beside = []
    pickle.dumps(matrix, protocol=5, buffer_callback=beside.append)
    seen = (np.shares_memory(one, other), one.flags.writeable, len(beside))
    print(f"{name}: two gets share memory {seen[0]}, writable {seen[1]}, buffers beside the pickle {seen[2]}")
    changed |= seen != ((False, True, 0) if name in ("bfloat16", "float8_e4m3fn") else (True, False, 1))
ray.shutdown()
sys.exit(changed)
PY
