"""Durations and rates in words."""

from __future__ import annotations

from storage_layouts.counts import plural


def duration(seconds: float) -> str:
    """Returns seconds with their two largest units: 45 s, 3 min 20 s, 5 h 12 min, 2 d 4 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, lower, lower_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // lower_size
            return f"{whole // size} {unit}" + (f" {rest} {lower}" if rest else "")
    return f"{whole} s"


def rate(per_second: float, noun: str) -> str:
    """Returns a rate as in 12.3 images/s, or below 0.5 as in 12 s an image."""
    if per_second < 0.5:
        return f"{duration(1 / per_second)} {'an' if noun[0] in 'aeiou' else 'a'} {noun}" if per_second > 0 else ""
    return f"{per_second:,.0f} {plural(noun)}/s" if per_second >= 100 else f"{per_second:.3g} {plural(noun)}/s"
