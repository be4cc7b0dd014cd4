"""The fields of a JSON file, checked before they are used: what is well-formed may still hold anything."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from storage_layouts.errors import CorruptError

SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Kind:
    """What a field may hold.

    Attributes:
        name: in words, for the message that it holds something else.
        fits: whether a value is of this kind.
        optional: whether the field may be missing.

    """

    name: str
    fits: Callable[[Any], bool]
    optional: bool = False


TEXT = Kind("a text", lambda value: isinstance(value, str))
COUNT = Kind("a whole number from 0 on", lambda value: type(value) is int and 0 <= value < 2**63)
SIZE = Kind("a whole number from 1 on", lambda value: type(value) is int and 0 < value < 2**63)
NUMBER = Kind("a number", lambda value: type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))


def optional(kind: Kind) -> Kind:
    """The same kind for a field that may be missing or null."""
    return Kind(f"{kind.name} or null", lambda value: value is None or kind.fits(value), optional=True)


def list_of(kind: Kind) -> Kind:
    """A list of values of a kind."""
    return Kind(f"a list, each {kind.name}", lambda value: isinstance(value, list) and all(map(kind.fits, value)))


def check_fields(file: object, content: Any, kinds: Mapping[str, Kind], remedy: str = "", within: str = "") -> None:
    """Check that ``content`` is an object with fields of these kinds; it may have others.

    Args:
        file: where it stands, for the message.
        content: what was read.
        kinds: of the fields by name.
        remedy: what to do if it is not so.
        within: name of the field that holds ``content``, if it is not the whole file.

    Raises:
        CorruptError: a field is missing or of another kind; the message names it.

    """
    where = f"{within}." if within else ""
    if not isinstance(content, dict):
        found = f"{within} = {shown(content)}" if within else shown(content)
        raise CorruptError(file, found, f"an object with {', '.join(kinds)}", remedy)
    for name, kind in kinds.items():
        if name not in content:
            if kind.optional:
                continue
            raise CorruptError(file, f"no field {where}{name}", kind.name, remedy)
        if not kind.fits(content[name]):
            raise CorruptError(file, f"{where}{name} = {shown(content[name])}", kind.name, remedy)


def shown(value: Any) -> str:
    """A JSON value in one short line."""
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
