"""JSON for a script element of a page."""

from __future__ import annotations

import json
from typing import Any


def script_json(value: Any) -> str:
    """JSON for a script element: pure ASCII, without ``<``, which could end the element."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), default=int).replace("<", "\\u003c")
