#!/usr/bin/env bash
# tuned-lens: what does the hash of the LM head, by which a saved lens recognises its model (unembed_hash in config.json), depend on?
# Guess, before the run: on every number of the matrix, rounded to one decimal ("robust to small perturbations"), and on nothing else.
# Seen: on what NumPy prints of a large matrix, which is its three outer rows and columns on each side. A head of 49,152 x 64 whose
# other rows are all zero has the same hash. And it depends on numpy.set_printoptions: the same head under edgeitems=4 has another hash.
# What follows: equal hashes do not say that a lens was made for this model, so a run of ours compares the weights of the blocks too; and
# we compute the hash from the corners alone, under print options of our own.
set -euo pipefail
folder=$(mktemp -d /tmp/tXXXX); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tuned-lens==0.2.0 torch==2.13.0 transformers==4.57.6 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from tuned_lens.utils import tensor_hash

head = np.random.default_rng(0).standard_normal((49152, 64), dtype=np.float32)
other = head.copy()
other[3:-3] = 0
whole = tensor_hash(head)
print("tuned-lens", version("tuned-lens"), "numpy", np.__version__)
same = tensor_hash(other) == whole
print(f"the same hash with {np.mean(other == 0):.2%} of the numbers zero: {same}")
with np.printoptions(edgeitems=4):
    moved = tensor_hash(head) != whole
print(f"another hash under edgeitems=4: {moved}")
raise SystemExit(0 if same and moved else 1)
PY
