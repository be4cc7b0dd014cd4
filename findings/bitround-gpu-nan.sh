#!/usr/bin/env bash
# numcodecs' BitRound, the usual filter before compression of floats in Zarr: what becomes of NaN?
# Guess, before the run: it drops bits of the mantissa, as its documentation says, and so NaN stays NaN, whatever its bits.
# Seen: that depends on who made the NaN. Those of numpy (7fc00000) and of x86 processors (ffc00000) stay NaN. 7fffffff, which the CUDA
# programming guide names as the result of single-precision operations with NaN, is rounded up past the exponent into the sign and is read
# back as -0.0, its negative as 0.0, even with all bits but one kept. In float16 7fff goes the same way. inf stays.
# What follows: a check for numbers that are not finite stands before a lossy filter, not behind it. lenscore refuses such states when it
# encodes them (storage_layouts/quantize.py). The GPU's bits are quoted, not measured: there was no GPU.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet zarr==3.1.6 numcodecs==0.16.6 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" -W ignore - "$folder" <<'PY'
import importlib.metadata as metadata
import sys

import numpy as np
import zarr
from zarr.codecs import numcodecs

print(*(f"{name} {metadata.version(name)}" for name in ("zarr", "numcodecs", "numpy")))
BITS = {
    "float32": np.array([0x3F800000, 0x7F800000, 0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32),
    "float16": np.array([0x3C00, 0x7C00, 0x7E00, 0xFE00, 0x7FFF, 0xFFFF], np.uint16),
}
changed = False
for name, kept in (("float32", 7), ("float32", 22), ("float16", 4)):
    bits = BITS[name]
    path = f"{sys.argv[1]}/{name}-{kept}.zarr"
    rounding = [numcodecs.BitRound(keepbits=kept)]
    array = zarr.create_array(path, shape=bits.shape, chunks=bits.shape, dtype=name, filters=rounding, fill_value=1)
    array[:] = bits.view(name)
    seen = [str(value) for value in zarr.open_array(path, mode="r")[:]]
    print(f"{name}, {kept} bits kept: {' '.join(f'{int(one):x}' for one in bits)} read back as {' '.join(seen)}")
    changed |= seen != ["1.0", "inf", "nan", "nan", "-0.0", "0.0"]
sys.exit(changed)
PY
