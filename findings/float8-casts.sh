#!/usr/bin/env bash
# The five 8-bit floats that torch and ml_dtypes (the types of numpy, JAX and Zarr) share: do both cast alike?
# Guess, before the run: in everything. All 256 codes mean the same numbers, ties are rounded alike, what is too large becomes inf in e5m2
# and NaN in the formats without inf, and e8m0fnu, which has neither zero nor sign, makes NaN of 0 and of negative numbers.
# Seen: codes and rounding agree. torch 2.13 saturates e4m3fn, and only that: 500 and inf become 448 (ml_dtypes: NaN above 464), while its
# fnuz sister becomes NaN in both. e8m0fnu of torch drops the sign, -2 becomes 2, and 0 becomes 2^-127, 5.9e-39 (ml_dtypes: NaN for both).
# What follows: NaN after the cast is no test for overflow, and a file of codes does not tell which rule made it. lenscore refuses what is
# not finite and clamps before it casts (storage_layouts/quantize.py).
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 ml_dtypes==0.6.0 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" -W ignore - <<'PY'
import importlib.metadata as metadata

import ml_dtypes
import numpy as np
import torch

print(*(f"{name} {metadata.version(name)}" for name in ("torch", "ml_dtypes", "numpy")))
CODES = np.arange(256, dtype=np.uint8)
EDGES = np.array([464, 465, 500, np.inf, -2, 0], np.float32)
EXPECTED = {
    "float8_e4m3fn": ("448 448 448 448 -2 0", "448 nan nan nan -2 0"),
    "float8_e4m3fnuz": ("nan nan nan nan -2 0", "nan nan nan nan -2 0"),
    "float8_e5m2": ("448 448 512 inf -2 0", "448 448 512 inf -2 0"),
    "float8_e5m2fnuz": ("448 448 512 nan -2 0", "448 448 512 nan -2 0"),
    "float8_e8m0fnu": ("512 512 512 nan 2 5.87747e-39", "512 512 512 nan nan nan"),
}


def by_torch(values, name):
    return torch.tensor(values).to(getattr(torch, name)).float().numpy()


def by_ml_dtypes(values, name):
    return values.astype(getattr(ml_dtypes, name)).astype(np.float32)


changed = False
for name, expected in EXPECTED.items():
    numbers = CODES.view(getattr(ml_dtypes, name)).astype(np.float32)
    same_codes = np.array_equal(torch.tensor(CODES).view(getattr(torch, name)).float().numpy(), numbers, equal_nan=True)
    finite = np.unique(numbers[np.isfinite(numbers)])
    ties = finite[:-1] + np.diff(finite) / 2
    around = np.concatenate([ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf)])
    same_rounding = np.array_equal(by_torch(around, name), by_ml_dtypes(around, name))
    edges = tuple(" ".join(f"{x:g}" for x in cast(EDGES, name)) for cast in (by_torch, by_ml_dtypes))
    print(f"{name}: same codes {same_codes}, same rounding {same_rounding}; of {' '.join(f'{x:g}' for x in EDGES)}")
    print(f"    torch makes {edges[0]}, ml_dtypes {edges[1]}")
    changed |= not same_codes or not same_rounding or edges != expected
raise SystemExit(changed)
PY
