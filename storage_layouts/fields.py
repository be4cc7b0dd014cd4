"""Checks of the fields of a JSON file: a file with a valid checksum may still hold any values."""

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
    """The type of a field.

    Attributes:
        name: in words, for error messages.
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
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))


def optional(kind: Kind) -> Kind:
    """The kind of a field that may also be missing or null."""
    return Kind(f"{kind.name} or null", lambda value: value is None or kind.fits(value), optional=True)


def list_of(kind: Kind) -> Kind:
    """A list of values of a kind."""
    return Kind(f"a list, each {kind.name}", lambda value: isinstance(value, list) and all(map(kind.fits, value)))


def object_of(kinds: Kind | Mapping[str, Kind], name: str = "an object") -> Kind:
    """An object: all its values are of one kind, or the named fields are of these kinds and others may exist."""

    def fits(value: Any) -> bool:
        if not isinstance(value, dict):
            return False
        if isinstance(kinds, Kind):
            return all(map(kinds.fits, value.values()))
        return all(kind.fits(value[field]) if field in value else kind.optional for field, kind in kinds.items())

    return Kind(name, fits)


def check_fields(file: object, content: Any, kinds: Mapping[str, Kind], remedy: str = "", within: str = "") -> None:
    """Check that ``content`` is an object with fields of these kinds; it may have others.

    Args:
        file: path of the file, for the message.
        content: what was read.
        kinds: kinds of the fields by name.
        remedy: what to do in case of an error.
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
