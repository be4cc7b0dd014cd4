"""Which model a run is of: its identity in run.json, and in model.json the weights that its first worker found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lenscore.models.fingerprints import tokenizer_fingerprint
from storage_layouts.errors import InputError
from storage_layouts.fields import TEXT, check_fields
from storage_layouts.files import FileDigest, digest_file, json_bytes, publish_first, read_json
from storage_layouts.runs import RunFolder


def model_identity(config: Any, tokenizer: Any) -> dict[str, Any]:
    """What run.json says of a model among the run's inputs: all that is known without its weights."""
    return {
        "architecture": config.model_type,
        "revision": getattr(config, "_commit_hash", None),
        "tokenizer_hash": tokenizer_fingerprint(tokenizer),
    }


def as_recorded(out: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a run, as a run that is in its folder already has them.

    Runs made with transformers 5.23 and an earlier version of this suite recorded no commit of a Hub model; such a run
    is taken up with whatever commit there is, and its model.json compares the weights. So is one that began with
    connector weights of the Hub whose commit was not recorded.
    """
    if not (out / "run.json").exists():
        return inputs
    earlier = RunFolder.open(out).inputs
    inputs = {name: found for name, found in inputs.items() if name != "start_from" or name in earlier}
    unknown = {
        name: found | {"revision": None}
        for name, found in inputs.items()
        if isinstance(found, dict) and "revision" in found and earlier.get(name, {}).get("revision") is None
    }
    return inputs | unknown


def commit_of(run: RunFolder, model: str = "model") -> str | None:
    """The commit of the Hub model that a run was opened with, for its workers: a branch may have moved since.

    ``model`` is what the run calls it. None for a model in a folder, and if no commit was recorded.
    """
    found: str | None = run.inputs.get(model, {}).get("revision")
    return None if Path(run.config[model]).is_dir() else found


def record_or_check_weights(run: RunFolder, fingerprint: str) -> dict[str, FileDigest]:
    """Write model.json, or compare with what the run's first worker wrote; returns it for the receipts.

    Raises InputError if the run began with other weights.
    """
    path = run.path / "model.json"
    publish_first(path, json_bytes({"weights_hash": fingerprint}))
    remedy = "delete it and all receipts, and repeat the command"
    content = read_json(path, remedy)
    check_fields(path, content, {"weights_hash": TEXT}, remedy)
    found = content["weights_hash"]
    if found != fingerprint:
        raise InputError(
            f"{path}: the run began with other weights ({found[:12]}) than this model has ({fingerprint[:12]}); "
            "use the same checkpoint, or a new --out"
        )
    return {"model.json": digest_file(path)}
