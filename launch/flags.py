"""From dataclasses to flags: every field of a job is a flag, and a YAML file may fill them."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tyro
import yaml

from storage_layouts.errors import InputError, first_line

T = TypeVar("T")


def parse(command: type[T], argv: Sequence[str] | None, prog: str) -> T:
    """Read `command` (a dataclass; its fields may be dataclasses, whose fields become flags too) from the flags.

    `--config FILE` fills flags that are not given (unless the command has a field of this name), `--print-config` shows
    what would run, as YAML that `--config` takes, and ends. Wrong flags end the process with exit code 2 and a message
    that names them.
    """
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--print-config", action="store_true")
    if "config" not in _fields(command):
        own.add_argument("--config", type=Path)
    given, rest = own.parse_known_args(sys.argv[1:] if argv is None else list(argv))
    if getattr(given, "config", None) is not None:
        rest = flags_of(read_yaml(given.config), command, f"--config {given.config}", rest) + rest
    parsed = tyro.cli(
        command, args=rest, prog=prog, config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    )
    if given.print_config:
        print(yaml.safe_dump(_settings(parsed), sort_keys=False), end="")
        sys.exit(0)
    return parsed


def read_yaml(path: Path, inheriting: tuple[Path, ...] = ()) -> dict[Any, Any]:
    """The settings in a YAML file, over those of the file that its `inherits` names (relative to it).

    InputError if one cannot be read, holds something else, or inherits from itself (`inheriting` are its heirs).
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {path}: cannot be read ({first_line(error)})") from None
    if not isinstance(settings, dict):
        raise InputError(f"--config {path}: expected lines of the form 'per_token: 20'")
    base = settings.pop("inherits", None)
    if base is None:
        return settings
    heirs = (*inheriting, path.resolve())
    if (path.parent / str(base)).resolve() in heirs:
        raise InputError(f"--config {path}: inherits from {base}, which inherits from it")
    return read_yaml(path.parent / str(base), heirs) | settings


def flags_of(settings: dict[Any, Any], command: type, where: str, given: Sequence[str] = ()) -> list[str]:
    """Settings as flags of `command`, without those that `given`, the command line, sets itself.

    Raises InputError, naming `where` they stand and what is valid, for a name that is no field.
    """
    fields = _fields(command)
    arguments: list[str] = []
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            raise InputError(f"{where}: no field {key!r}; expected some of {', '.join(sorted(fields))}")
        flag = name.replace("_", "-")
        mentioned = (f"--{flag}", f"--no-{flag}")
        if value is None or any(word.replace("_", "-").split("=")[0] in mentioned for word in given):
            continue
        if isinstance(value, bool):
            arguments.append(mentioned[0] if value else mentioned[1])
        elif fields[name] is str:
            # As one word, or a value that begins with "-" would be taken for a flag.
            arguments.append(f"{mentioned[0]}={','.join(map(str, value)) if isinstance(value, list) else value}")
        else:
            arguments += [mentioned[0], *map(str, value if isinstance(value, list) else [value])]
    return arguments


def _fields(command: type) -> dict[str, Any]:
    """All fields with their types, those of nested dataclasses included."""
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(command).items():
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            found |= _fields(kind)
        elif name in {field.name for field in dataclasses.fields(command)}:
            found[name] = kind
    return found


def _settings(parsed: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(parsed):
        value = getattr(parsed, field.name)
        if dataclasses.is_dataclass(value):
            settings |= _settings(value)
        elif isinstance(value, (tuple, list)):
            settings[field.name] = [_plain(item) for item in value]
        else:
            settings[field.name] = _plain(value)
    return settings


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value
