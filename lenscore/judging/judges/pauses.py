"""The seconds between two requests: from the headers of a reply, or exponential backoff."""

from __future__ import annotations

import math
import re
import secrets
import time
from email.utils import parsedate_to_datetime
from typing import Any

LONGEST_PAUSE = 120.0
"""Upper limit in seconds of a pause that only the rate-limit headers ask for."""
LONGEST_WAIT = 3600.0
"""Upper limit in seconds of a Retry-After; at a longer one the command stops with a message."""
PAUSE_TO_TELL = 5.0
"""Pauses of more seconds are reported to the user."""


def backoff(failures: int) -> float:
    """Seconds to wait after ``failures`` earlier failures; up to a quarter less at random, to spread the workers."""
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
    """Seconds until the rate limits that are used up are reset, from the headers x-ratelimit-*."""
    used_up = [what for what in ("requests", "tokens") if headers.get(f"x-ratelimit-remaining-{what}") == "0"]
    pauses = [_seconds(headers.get(f"x-ratelimit-reset-{what}", "")) for what in used_up]
    return min(max(pauses, default=0.0), LONGEST_PAUSE)


def _seconds(duration: str) -> float:
    """Seconds of a duration as in ``6m0s``, ``1.5s`` or ``120ms``; 0 for anything else."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    parts = re.findall(r"([\d.]+)(ms|[hms])", duration)
    return sum((float(number) * units[unit] for number, unit in parts), 0.0)
