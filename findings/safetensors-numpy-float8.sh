#!/usr/bin/env bash
# 16- and 8-bit floats in a safetensors file, through safetensors.numpy.
# Guess, before the run: what save() takes, load() gives back, as an ml_dtypes array; or both say that numpy has no such type.
# Seen: save() takes both. load() gives bfloat16 only after ml_dtypes was imported by somebody, and fails with numpy's TypeError
# before; float8 it never gives back: it looks for the type in numpy and ends with an AttributeError.
# What follows: weights in 8-bit floats are read through torch, or as bytes by the offsets in the file's header.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 ml_dtypes==0.6.0 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - "$folder" <<'PY'
import importlib.metadata as metadata
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save

print(*(f"{name} {metadata.version(name)}" for name in ("safetensors", "ml_dtypes", "numpy")))
EXPECTED = {
    ("bfloat16", "without"): "TypeError",
    ("bfloat16", "with"): "bfloat16 [0.0, 1.0, 2.0, 3.0]",
    ("float8_e4m3fn", "without"): "AttributeError",
    ("float8_e4m3fn", "with"): "AttributeError",
}
READ = """
import sys
from safetensors.numpy import load_file
if sys.argv[2] == "with":
    import ml_dtypes
try:
    values = load_file(sys.argv[1])["a"]
    print(values.dtype, values.astype("float32").tolist())
except Exception as error:
    print(type(error).__name__)
"""
changed = False
for (name, other), expected in EXPECTED.items():
    file = Path(sys.argv[1], f"{name}.safetensors")
    file.write_bytes(save({"a": np.arange(4).astype(getattr(ml_dtypes, name))}))
    seen = subprocess.run([sys.executable, "-c", READ, file, other], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{name}, {other} ml_dtypes imported: {seen}")
    changed |= seen != expected
sys.exit(changed)
PY
