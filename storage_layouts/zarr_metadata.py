"""The zarr.json files of Zarr v3 groups and arrays. Without numpy."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from storage_layouts.errors import CorruptError
from storage_layouts.files import FileDigest, digest_bytes, read_expected

INNER_ROWS = 1024
"""Rows of an inner chunk at most."""


def metadata_bytes(content: dict[str, Any]) -> bytes:
    """Text of a zarr.json."""
    return json.dumps({"zarr_format": 3, **content}, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def read_metadata(path: Path, digest: FileDigest, remedy: str = "") -> bytes:
    """Text of a zarr.json as it was written, without the metadata that `zarr.consolidate_metadata` may have added.

    CorruptError if it is missing, or its other content was changed.
    """
    data = read_expected(path, digest, remedy)
    found = digest_bytes(data)
    if found != digest:
        data = _without_copies(data)
        if digest_bytes(data) != digest:
            raise CorruptError(path, found, digest, remedy)
    return data


def _without_copies(data: bytes) -> bytes:
    with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
        content = json.loads(data)
        if content.pop("consolidated_metadata", None) and content.pop("zarr_format", None) == 3:
            return metadata_bytes(content)
    return data


def group_metadata(attributes: dict[str, Any]) -> bytes:
    """Text of a group's zarr.json."""
    return metadata_bytes({"node_type": "group", "attributes": attributes})
