"""Run identity: a hash of configuration and inputs, which plan and receipts repeat."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from storage_layouts.errors import InputError
from storage_layouts.fields import OBJECT, TEXT, check_fields, optional, shown
from storage_layouts.files import canonical_json
from storage_layouts.shards import shard_name

FORMAT = 1
IDENTITY = ("stage", "config", "inputs")  # the fields of run.json that make two runs the same
PACKAGES = ("lenscore", "numpy", "torch", "transformers", "zarr", "pyarrow")

RUN_REMEDY = "delete it and repeat the command"
RUN_FIELDS = {"stage": TEXT, "run_id": TEXT, "config": OBJECT, "inputs": OBJECT, "versions": OBJECT}
CREATED_FIELDS = dict.fromkeys(("command", "time", "host", "commit"), TEXT)
_RUN = {"path": TEXT, "run_id": TEXT}
UPSTREAM = {"analyze": ("store", optional(OBJECT)), "judge": ("results", OBJECT)}
"""By stage, the input that is another run: an object with the fields of `_RUN`."""


def receipt_remedy(shard: int) -> str:
    """The remedy for a damaged file of a shard."""
    return f"delete receipts/{shard_name(shard)}.json and repeat the command"


def run_content(stage: str, config: dict[str, Any], inputs: dict[str, Any], command: str) -> dict[str, Any]:
    """Fields of run.json. Package versions and `created` are not part of the identity."""
    identity = {"stage": stage, "config": config, "inputs": inputs}
    run_id = hashlib.sha256(canonical_json(identity)).hexdigest()[:16]
    created = {
        "command": command,
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "commit": source_commit(),
    }
    return {"format": FORMAT, **identity, "run_id": run_id, "versions": dict(_versions()), "created": created}


@functools.cache
def source_commit() -> str:
    """Git commit of the running lenscore, with "-dirty" if its checkout has changes; "" if it is unknown."""
    with contextlib.suppress(metadata.PackageNotFoundError, ValueError):
        origin = json.loads(metadata.distribution("lenscore").read_text("direct_url.json") or "{}")
        if commit := origin.get("vcs_info", {}).get("commit_id"):
            return str(commit)
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()
    return ""


def check_run(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Check and return the content of a run.json.

    InputError for a newer format, CorruptError if a field is missing or of another kind.
    """
    if content.get("format") != FORMAT:
        raise InputError(f"{file}: format {shown(content.get('format'))}, but this version reads {FORMAT}")
    check_fields(file, content, RUN_FIELDS, RUN_REMEDY)
    check_fields(file, content["versions"], dict.fromkeys(content["versions"], TEXT), RUN_REMEDY, "versions")
    if "created" in content:  # not in those of older versions
        check_fields(file, content["created"], CREATED_FIELDS, RUN_REMEDY, "created")
    if content["stage"] in UPSTREAM:
        name, kind = UPSTREAM[content["stage"]]
        check_fields(file, content["inputs"], {name: kind}, RUN_REMEDY, "inputs")
        if entry := content["inputs"].get(name):
            check_fields(file, entry, _RUN, RUN_REMEDY, f"inputs.{name}")
    return content


def plan_id(data: bytes) -> str:
    """16 hex digits of the hash of a plan.json, which the receipts repeat."""
    return hashlib.sha256(data).hexdigest()[:16]


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), **dict.fromkeys(PACKAGES, "not installed")}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
