"""Random generators that depend only on a name, never on a global state."""

from __future__ import annotations

import random


def generator(*name: object) -> random.Random:
    """Returns the generator of a name, for example ``generator("caption", "test", 0, 12)``.

    ``random.Random`` hashes a string seed with SHA-512: the same name gives the same numbers on every machine, and
    similar names give unrelated ones.
    """
    return random.Random("/".join(["lenscore.shapes", *map(str, name)]))  # noqa: S311 - no secret
