"""Names of models as names of files."""

from __future__ import annotations

import re


def file_name(label: str) -> str:
    """A label as a file name: letters, digits, dots and hyphens."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-.") or "run"
