"""Style of the figures of one image; the colours of the lenses are those of the report's figures."""

from __future__ import annotations

from typing import Any

POINTS, SMALL_POINTS = 6.5, 5.5
LINE_INCHES = 0.118
"""Distance between lines of text."""

TEXT, FAINT, RULE = "#1a1a1a", "#767676", "#d0d0d0"

SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "lenscore",
    "svg.fonttype": "path",  # words keep their measured positions even without the fonts
    "pdf.fonttype": 42,
    "text.hinting": "none",  # hinting snaps letters to pixels, and lines become longer than measured
    "axes.linewidth": 0.4,
}
METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
