"""Random choices that depend on their name alone, never on a global generator or on what ran before."""

from __future__ import annotations

import random


def generator(*name: object) -> random.Random:
    """A generator named by the given parts, for example ``generator("caption", "test", 0, 12)``.

    ``random.Random`` hashes a string seed with SHA-512: the same name gives the same numbers on every
    machine, and neighbouring names give unrelated ones.
    """
    return random.Random("/".join(["lenscore.shapes", *map(str, name)]))  # noqa: S311 - no secret
