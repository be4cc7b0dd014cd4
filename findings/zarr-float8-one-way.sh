#!/usr/bin/env bash
# A float8 array of Zarr v3, the natural file for quantised embeddings, written by one library of the format and read by the other.
# Guess, before the run: zarr-python opens what tensorstore wrote, through ml_dtypes, which both install beside numpy.
# Seen: zarr-python refuses the data type by name, for float8, bfloat16 and int4 alike; tensorstore writes and reads all three.
# What follows: codes of 8-bit floats are stored as uint8 with an attribute that names the encoding; every reader opens that.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet zarr==3.1.6 tensorstore==0.1.86 ml_dtypes==0.6.0 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - "$folder" <<'PY'
import importlib.metadata as metadata
import sys

import ml_dtypes
import numpy as np
import tensorstore
import zarr

print(*(f"{name} {metadata.version(name)}" for name in ("zarr", "tensorstore", "ml_dtypes", "numpy")))
changed = False
for name in ("float8_e4m3fn", "bfloat16", "int4"):
    path = f"{sys.argv[1]}/{name}.zarr"
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": path},
        "metadata": {
            "data_type": name,
            "shape": [4],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4]}},
        },
    }
    values = np.arange(4).astype(getattr(ml_dtypes, name))
    tensorstore.open(spec, create=True).result().write(values).result()
    again = tensorstore.open(spec, open=True).result().read().result()
    try:
        other = str(zarr.open_array(path, mode="r").dtype)
    except ValueError as error:
        other = str(error)
    print(f"{name}: tensorstore reads {again.tolist()}; zarr-python: {other}")
    changed |= again.tolist() != [0, 1, 2, 3] or other != f"No Zarr data type found that matches '{name}'"
sys.exit(changed)
PY
