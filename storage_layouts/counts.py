"""Numbers with nouns: `1 shard`, `2 shards`, `5,503 rows`."""

from __future__ import annotations

UNITS = {
    "extract": "row",
    "analyze": "image",
    "judge": "patch",
    "intervene": "image",
    "sharpen": "patch search",
    "train": "step",
    "tune": "sequence",
    "planning": "part",
}
"""Names of the items of a run, by stage."""


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is 1; the noun may consist of several words."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def unit_of(stage: str) -> str:
    """Name of one item of a run of this stage."""
    return UNITS.get(stage, "item")


def share(part: int, whole: int, noun: str) -> str:
    """A part of a whole, as in `9 of 10 images`."""
    return f"{part:,} of {counted(whole, noun)}"


def plural(noun: str) -> str:
    """A regular noun in the plural: rows, patches, replies."""
    if noun.endswith(("ch", "sh", "s", "x")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"
