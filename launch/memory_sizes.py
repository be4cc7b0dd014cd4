"""Sizes of memory as users give them."""

from __future__ import annotations

import re

from storage_layouts.errors import InputError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT])B?", re.IGNORECASE)


def memory_bytes(text: str, flag: str, zero: str = "") -> int:
    """Bytes of a size as in 32GB or 1.5T, in powers of 1,024. InputError with `flag` for anything else.

    `zero` is what the message says of 0 where the flag takes it.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise InputError(f"{flag}: found {text!r}, expected a size with its unit, as in 32GB{zero}")
    return round(float(found[1]) * 1024.0 ** (1 + "KMGT".index(found[2].upper())))
