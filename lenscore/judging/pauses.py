"""How long to wait before a service is asked again: what its headers say, and what is usual."""

from __future__ import annotations

import math
import re
import secrets
import time
from email.utils import parsedate_to_datetime
from typing import Any

LONGEST_PAUSE = 120.0
"""Seconds that a rate-limit header alone may hold requests back."""
LONGEST_WAIT = 3600.0
"""Seconds that a Retry-After is waited for; the command stops at a longer one, and says so."""
PAUSE_TO_TELL = 5.0
"""Longer pauses are told."""


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures before this one; up to a quarter less, so that not all come at once."""
    return min(0.5 * 2.0 ** min(failures, 10), 8.0) * (1 - secrets.randbelow(251) / 1000)


def retry_after(headers: Any) -> float | None:
    """Seconds in Retry-After (a number, or a date) or retry-after-ms; None if there are none."""
    for name, factor in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) * factor
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError, IndexError):
                continue
        if not math.isnan(seconds):
            return max(0.0, seconds)
    return None


def pause_seconds(headers: Any) -> float:
    """How long all requests should wait, from the rate-limit headers: until the limit that is used up is reset."""
    pause = 0.0
    for what in ("requests", "tokens"):
        if headers.get(f"x-ratelimit-remaining-{what}") == "0":
            pause = max(pause, _seconds(headers.get(f"x-ratelimit-reset-{what}", "")))
    return min(pause, LONGEST_PAUSE)


def _seconds(duration: str) -> float:
    """Seconds of a duration as in ``6m0s``, ``1.5s`` or ``120ms``; 0 for anything else."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    parts = re.findall(r"([\d.]+)(ms|[hms])", duration)
    return sum(float(number) * units[unit] for number, unit in parts) if parts else 0.0
