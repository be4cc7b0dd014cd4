"""How much memory the weights of a checkpoint take, from the headers of its files; no weight is read."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path

import huggingface_hub
import torch
from safetensors import safe_open

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_CAST = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of the numbers that are converted to the dtype of the model."""
_KEPT = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}
"""Bytes of others; those of the rest are 1."""


def weight_bytes(name: str | os.PathLike[str], revision: str | None, dtype: torch.dtype | None) -> int | None:
    """Bytes of the weights in memory, held in `dtype` (None: as they are stored).

    `name` is a folder or a Hub name. None if the checkpoint has no safetensors, or the Hub cannot be asked.
    """
    try:
        counts = _numbers(name, revision or None)
    except Exception:  # of damaged files, the Hub and networks; a worker that loads the model says what is wrong
        return None
    return sum(
        count * (dtype.itemsize if dtype is not None and kind in _CAST else (_CAST | _KEPT).get(kind, 1))
        for kind, count in counts.items()
    )


def _numbers(name: str | os.PathLike[str], revision: str | None) -> Counter[str]:
    """How many numbers of each stored dtype, as safetensors names them."""
    folder = Path(name)
    if not folder.is_dir():
        found = huggingface_hub.try_to_load_from_cache(str(name), "config.json", revision=revision)
        folder = Path(found).parent if isinstance(found, str) else folder
    counts: Counter[str] = Counter()
    if (folder / _INDEX).exists():
        files = sorted(set(json.loads((folder / _INDEX).read_text())["weight_map"].values()))
    elif (folder / _SINGLE).exists():
        files = [_SINGLE]
    elif Path(name).is_dir():
        raise FileNotFoundError(folder / _SINGLE)
    else:  # not downloaded yet
        return Counter(huggingface_hub.get_safetensors_metadata(str(name), revision=revision).parameter_count)
    for file in files:
        with safe_open(folder / file, "pt") as tensors:
            for part in map(tensors.get_slice, tensors.keys()):
                counts[part.get_dtype()] += math.prod(part.get_shape())
    return counts
