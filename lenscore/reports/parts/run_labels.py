"""Distinct names of run folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from storage_layouts.runs import RunFolder

_LONGEST = 4


def run_labels(runs: Sequence[RunFolder]) -> list[str]:
    """For each run the shortest unique end of its path (``olmo/store.zarr``), or else its name and run id."""
    named = [str(run.path.resolve()).encode(errors="backslashreplace").decode() for run in runs]
    paths = [Path(name).parts for name in named]
    for length in range(1, _LONGEST + 1):
        labels = ["/".join(parts[-length:]) for parts in paths]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{parts[-1]} {run.run_id[:6]}" for parts, run in zip(paths, runs, strict=True)]
