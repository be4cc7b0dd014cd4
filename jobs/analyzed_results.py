"""The analyze run that another run goes on from."""

from __future__ import annotations

from pathlib import Path

from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder


def results_begun_with(path: Path, run: RunFolder) -> LensResults:
    """The results with which a run began. InputError if they were replaced by others."""
    results, expected = LensResults.open(path), run.inputs["results"]["run_id"]
    if results.run.run_id != expected:
        raise InputError(
            f"--results {results.path}: found run {results.run.run_id}, but {run.path} began with {expected}; "
            "put those results back, or choose a new --out"
        )
    return results
