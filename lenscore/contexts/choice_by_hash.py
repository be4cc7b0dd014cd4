"""Choices that depend on a seed and a text only. Settings use their names, so no library is loaded here."""

from __future__ import annotations

import hashlib
from typing import Literal

Sampling = Literal["uniform", "first"]


def hashed_share(seed: int, text: str, purpose: bytes = b"") -> float:
    """A number in [0, 1) that depends only on (seed, text, purpose); those of two purposes are independent."""
    data, salt = text.encode("utf-8", "surrogatepass"), seed.to_bytes(16, "little")
    digest = hashlib.blake2b(data, digest_size=8, salt=salt, person=purpose)
    return int.from_bytes(digest.digest(), "little") / 2**64
