"""File names of models."""

from __future__ import annotations

import re
from hashlib import sha256

_LONGEST = 80


def file_name(label: str) -> str:
    """A label as a file name: letters, digits, dots and hyphens; a long label is cut and gets a hash of the whole."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-.") or "run"
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{sha256(label.encode()).hexdigest()[:8]}"
