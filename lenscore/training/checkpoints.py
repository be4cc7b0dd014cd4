"""Where a training stands, on disk: what its next step depends on, with a checksum, so that a kill costs little.

    state/00000500.safetensors    before step 500: trained weights and what AdamW remembers
    state/00000500.json           plan, step and checksum of it; written last

They are a cache: a run without them begins again and comes to the same bytes. The last two are kept.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from storage_layouts.errors import CorruptError
from storage_layouts.fields import COUNT, TEXT, check_fields
from storage_layouts.files import (
    FileDigest,
    check_file,
    digest_file,
    make_folder,
    name_aside,
    read_json,
    sync_tree,
    write_json,
)
from storage_layouts.machine_errors import writing

KEPT = 2
_NOTE = {"plan_id": TEXT, "step": COUNT, "bytes": COUNT, "crc32_of_state": TEXT}


def save_state(folder: Path, plan_id: str, step: int, tensors: dict[str, Tensor]) -> None:
    """Save the state before a step, then drop all but the last `KEPT`. InputError if the disk is full, and the like."""
    make_folder(folder)
    path = folder / f"{step:08d}.safetensors"
    aside = name_aside(path)
    with writing(path):
        try:
            save_file(tensors, aside)
            digest = digest_file(aside)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    sync_tree([path])
    write_json(
        path.with_suffix(".json"),
        {"plan_id": plan_id, "step": step, "bytes": digest.bytes, "crc32_of_state": digest.crc32},
    )
    for old in sorted(folder.glob("[0-9]*.json"))[:-KEPT]:
        old.unlink(missing_ok=True)
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def newest_state(folder: Path, plan_id: str, before: int) -> tuple[int, dict[str, Tensor]] | None:
    """The latest whole state of the planned run that is not behind step `before`, with its step; None if there is none.

    One that is damaged or of another run or plan is passed over.
    """
    for note in sorted(folder.glob("[0-9]*.json"), reverse=True):
        path = note.with_suffix(".safetensors")
        try:
            content = read_json(note)
            check_fields(note, content, _NOTE)
            if content["plan_id"] != plan_id or content["step"] > before:
                continue
            check_file(path, FileDigest(content["bytes"], content["crc32_of_state"]))
        except CorruptError:
            continue
        return content["step"], load_file(path)
    return None
