"""Data in a page's script, which no text in it can end."""

from __future__ import annotations

import json
from typing import Any


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: pure ASCII, without a ``<`` that could end the element."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), default=int).replace("<", "\\u003c")
