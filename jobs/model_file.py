"""model.json of a run: a fingerprint of the weights that it began with, so that no shard comes from other ones."""

from __future__ import annotations

from storage_layouts.errors import InputError
from storage_layouts.files import FileDigest, digest_file, json_bytes, publish_first, read_json
from storage_layouts.runs import RunFolder


def settle_weights(run: RunFolder, fingerprint: str) -> dict[str, FileDigest]:
    """Write model.json, or compare with what the run's first worker wrote; returns it for the receipts.

    Raises InputError if the run began with other weights.
    """
    path = run.path / "model.json"
    publish_first(path, json_bytes({"weights_hash": fingerprint}))
    found = read_json(path, "delete it and all receipts, and repeat the command")["weights_hash"]
    if found != fingerprint:
        raise InputError(
            f"{path}: the run began with other weights ({found[:12]}) than this model has ({fingerprint[:12]}); "
            "use the same checkpoint, or a new --out"
        )
    return {"model.json": digest_file(path)}
