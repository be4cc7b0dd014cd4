"""The model of a run: its identity in run.json, and in model.json the hash of the weights of its first worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lenscore.models.fingerprints import tokenizer_fingerprint
from storage_layouts.errors import InputError
from storage_layouts.fields import TEXT, check_fields
from storage_layouts.files import FileDigest, digest_file, json_bytes, publish_first, read_json
from storage_layouts.runs import RunFolder

WEIGHTS_REMEDY = "delete it and all receipts, and repeat the command"
"""For a damaged model.json."""


def model_identity(config: Any, tokenizer: Any) -> dict[str, Any]:
    """The fields of a model among the inputs in run.json: all that is known without its weights."""
    return {
        "architecture": config.model_type,
        "revision": getattr(config, "_commit_hash", None),
        "tokenizer_hash": tokenizer_fingerprint(tokenizer),
    }


def as_recorded(out: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a run, adapted to an older run in its folder that recorded fewer fields.

    An earlier version with transformers 5.23 did not record the commit of a Hub model. Such a run is resumed with any
    commit, and model.json compares the weights. The same holds for connector weights from the Hub without a commit.
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
    """The recorded commit of a run's Hub model, for its workers: a branch may have moved since.

    ``model`` is the name of the input. None for a model in a folder, and if no commit was recorded.
    """
    found: str | None = run.inputs.get(model, {}).get("revision")
    return None if Path(run.config[model]).is_dir() else found


def record_or_check_weights(run: RunFolder, fingerprint: str) -> dict[str, FileDigest]:
    """Write model.json, or compare it if another worker was first; returns its digest for the receipts.

    Raises InputError if the run began with other weights.
    """
    path = run.path / "model.json"
    publish_first(path, json_bytes({"weights_hash": fingerprint}))
    content = read_json(path, WEIGHTS_REMEDY)
    check_fields(path, content, {"weights_hash": TEXT}, WEIGHTS_REMEDY)
    found = content["weights_hash"]
    if found != fingerprint:
        raise InputError(
            f"{path}: the run began with other weights ({found[:12]}) than this model has ({fingerprint[:12]}); "
            "use the same checkpoint, or a new --out"
        )
    return {"model.json": digest_file(path)}
