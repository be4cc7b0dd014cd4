#!/usr/bin/env bash
# Fill values of Zarr v3: is a chunk stored whose values equal the fill value in arithmetic, but not in bits?
# Guess, before the run: zarr-python leaves out a chunk of -0.0 under fill 0.0 (they compare equal) and a chunk of NaN with another
# payload under fill NaN; tensorstore leaves out the NaN chunk too.
# Seen: zarr-python stores the -0.0 and leaves out the NaN, so that its payload is lost and reading gives the standard NaN;
# tensorstore stores both. Two writers of one array differ in which chunk files exist.
# What follows: neither a missing chunk nor a NaN tells whether a region was ever written; that has to be recorded elsewhere.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet zarr==3.1.6 tensorstore==0.1.86 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - "$folder" <<'PY'
import importlib.metadata as metadata
import sys
from pathlib import Path

import numpy as np
import tensorstore
import zarr

print(*(f"{name} {metadata.version(name)}" for name in ("zarr", "tensorstore", "numpy")))
VALUES = {"0.0": np.full(4, -0.0, np.float32), "NaN": np.full(4, 0x7FC00001, np.uint32).view(np.float32)}
EXPECTED = {
    ("zarr-python", "0.0"): (True, "80000000"),
    ("zarr-python", "NaN"): (False, "7fc00000"),
    ("tensorstore", "0.0"): (True, "80000000"),
    ("tensorstore", "NaN"): (True, "7fc00001"),
}


def by_zarr(path, fill, values):
    array = zarr.create_array(
        path, shape=(4,), chunks=(4,), dtype="float32", fill_value=float(fill), config={"write_empty_chunks": False}
    )
    array[:] = values
    return array[:]


def by_tensorstore(path, fill, values):
    metadata = {
        "data_type": "float32",
        "fill_value": "NaN" if fill == "NaN" else 0.0,
        "shape": [4],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4]}},
    }
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}, "metadata": metadata}
    array = tensorstore.open(spec, create=True).result()
    array.write(values).result()
    return array.read().result()


changed = False
for (writer, fill), expected in EXPECTED.items():
    path = f"{sys.argv[1]}/{writer}-{fill}.zarr"
    read = (by_zarr if writer == "zarr-python" else by_tensorstore)(path, fill, VALUES[fill])
    seen = (Path(path, "c/0").exists(), f"{read.view(np.uint32)[0]:08x}")
    print(f"{writer}, fill {fill}: chunk stored {seen[0]}, read back as {seen[1]}")
    changed |= seen != expected
sys.exit(changed)
PY
