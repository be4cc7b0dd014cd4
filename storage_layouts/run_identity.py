"""Who a run is: its configuration and inputs as a hash, which its plan and receipts repeat."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from typing import Any

from storage_layouts.files import canonical_json
from storage_layouts.shards import shard_name

FORMAT = 1
IDENTITY = ("stage", "config", "inputs")  # the fields of run.json that make two runs the same
PACKAGES = ("lenscore", "numpy", "torch", "transformers", "zarr", "pyarrow")

RUN_REMEDY = "delete it and repeat the command"
PLAN_REMEDY = "delete plan.json and repeat the command"


def receipt_remedy(shard: int) -> str:
    """What to do about a damaged file of a shard."""
    return f"delete receipts/{shard_name(shard)}.json and repeat the command"


def run_content(stage: str, config: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Fields of run.json. Package versions are recorded, but are no part of the identity."""
    identity = {"stage": stage, "config": config, "inputs": inputs}
    run_id = hashlib.sha256(canonical_json(identity)).hexdigest()[:16]
    return {"format": FORMAT, **identity, "run_id": run_id, "versions": _versions()}


def plan_id(data: bytes) -> str:
    """16 hex digits for the bytes of a plan.json, which the receipts repeat."""
    return hashlib.sha256(data).hexdigest()[:16]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
