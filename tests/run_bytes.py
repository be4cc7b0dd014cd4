"""All bytes of a run folder that every repetition of its command must give again."""

from __future__ import annotations

import json
from pathlib import Path


def bytes_of(run: Path) -> dict[str, bytes]:
    """The files of a run but its logs, by name; of run.json without when, where and by which command it was made."""
    files = [path for path in run.rglob("*") if path.is_file()]
    found = {path.relative_to(run).as_posix(): path.read_bytes() for path in files}
    content = json.loads(found["run.json"])
    del content["created"], content["crc32"]
    found["run.json"] = json.dumps(content, sort_keys=True).encode()
    return {name: data for name, data in found.items() if not name.startswith(("attempts/", "heartbeats/"))}
