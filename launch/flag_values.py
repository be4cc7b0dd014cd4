"""Checks the words of a command line against the types of its flags, so that each error is one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from storage_layouts.errors import InputError


def flag_of(field_name: str) -> str:
    """Returns the flag of a field, as in --top-k."""
    return f"--{field_name.replace('_', '-')}"


def checked(words: Sequence[str], flags: Mapping[str, Any], prog: str) -> tuple[list[str], list[str]]:
    """Check that every flag of a command line has a value of its type, or none if it is a switch.

    Args:
        words: the command line; all of its flags are known.
        flags: the type of each flag, by the name of its field.
        prog: name of the command in messages.

    Returns:
        The words that belong to no flag, and the flags with their values.

    Raises:
        InputError: a flag without a value, or with one of another type.

    """
    alone: list[str] = []
    flagged: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if not is_flag(word):
            alone.append(word)
            continue
        flag, equals, value = word.partition("=")
        kind = flags.get(flag[2:].replace("-", "_"), bool)
        values = [value] if equals else []
        if get_origin(kind) is tuple:
            values += takewhile(lambda word: not is_flag(word), left)
        elif kind is not bool and not equals and left and not is_flag(left[0]):
            values = [left[0]]
        flagged += [word, *values[bool(equals) :]]
        del left[: len(values) - bool(equals)]
        require_values(kind, values, f"{prog}: {flag}")
    return alone, flagged


def is_flag(word: str) -> bool:
    """Whether a word is a flag; a negative number is a value."""
    return (
        word.startswith("-") and word.lstrip("-")[:1].isalpha() and word[1:].lower() not in ("inf", "infinity", "nan")
    )


def require_values(kind: Any, values: Sequence[str], where: str) -> None:
    """Raises InputError unless a flag of this type takes these values."""
    if kind is bool:
        if values:
            raise InputError(f"{where}: found {values[0]!r}, expected no value")
        return
    if get_origin(kind) in (tuple, Union, UnionType):  # None of `X | None`: the flag is absent
        kinds = [inner for inner in get_args(kind) if inner not in (Ellipsis, NoneType)]
    else:
        kinds = [kind]
    one = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], set()))
    assert isinstance(one, PrimitiveConstructorSpec)
    expected = f"one of {', '.join(one.choices)}" if one.choices else one.metavar
    if not values and get_origin(kind) is not tuple:
        raise InputError(f"{where}: found no value, expected {expected}")
    for value in values:
        try:
            one.instance_from_str([value])
        except ValueError:
            raise InputError(f"{where}: found {value!r}, expected {expected}") from None
