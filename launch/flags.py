"""From dataclasses to flags: every field of a job is a flag, and a YAML file may fill them."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

import tyro
import yaml
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from launch.flag_values import checked, is_flag
from launch.terminal import say
from storage_layouts.errors import InputError, first_line

T = TypeVar("T")

SHIPPED = Path(str(resources.files("lenscore.training"))) / "configs"
"""Settings for `lens train`: the models and ablations of the LatentLens paper."""

REQUIRED = "REQUIRED"
"""What stands in a template in place of a value that has to be given."""


@dataclasses.dataclass(frozen=True)
class _PrintConfig:
    print_config: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print all settings as --config takes them, and end; REQUIRED stands for what has to be filled in."""


@dataclasses.dataclass(frozen=True)
class _Own(_PrintConfig):
    config: Path | None = None
    """YAML file for the flags that are not given here, with lines such as per_token: 20; for lens train also the name
    of shipped settings, as in olmo-clip."""


_PLAIN = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.DisallowNone)


def parse(command: type[T], argv: Sequence[str] | None, prog: str) -> T:
    """Read `command` (a dataclass; its fields may be dataclasses, whose fields become flags too) from the flags.

    `--config FILE` fills flags that are not given (unless the command has a field of this name), `--print-config` shows
    what would run, as YAML that `--config` takes, and ends. InputError for a wrong flag, a wrong value or a stray word.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    fields = _fields(command)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    own.add_argument("--print-config", action="store_true")
    if "config" not in fields:
        own.add_argument("--config", type=Path)
    try:
        given, rest = own.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise InputError(f"{prog}: {error.argument_name}: {error.message}") from None
    if getattr(given, "config", None) is not None:
        rest = flags_of(read_yaml(given.config), command, f"--config {given.config}", rest) + rest
    rest = ["--help"] if {"-h", "--help"} & set(rest) else _checked(command, rest, prog, given.print_config)
    if given.print_config:
        say(yaml.safe_dump(_to_print(command, rest, prog), sort_keys=False).rstrip())
        sys.exit(0)
    return _read(command, rest, prog)


def _checked(command: type, words: Sequence[str], prog: str, is_template: bool) -> list[str]:
    """The command line, with the words that belong to no flag first.

    InputError for a flag that the command does not have, a value of another type, a stray word or, but in a template,
    for what is missing.
    """
    named = [word.split("=")[0].replace("_", "-") for word in words if word.startswith("-")]
    fields = _fields(command)
    flags = [name.replace("_", "-") for name in fields]
    known = [*(f"--{name}" for name in flags), *(f"--no-{name}" for name in flags)]
    for flag in named:
        if is_flag(flag) and flag not in known:
            raise InputError(f"{prog}: no flag {flag}{nearest(flag, known)}; {prog} --help shows all")
    alone, flagged = checked(words, fields, prog)
    hints = get_type_hints(command, include_extras=True)
    places = {name: get_args(kind)[0] for name, kind in hints.items() if get_origin(kind) is Annotated}
    takes_any = any(get_origin(kind) is tuple for kind in places.values())
    if not takes_any and len(alone) > len(places):
        raise InputError(f"{prog}: found {alone[len(places)]!r}, which belongs to no flag; {prog} --help shows all")
    missing = [] if takes_any else [name.upper() for name in list(places)[len(alone) :]]
    missing += [flag for name in _required(command) if (flag := f"--{name.replace('_', '-')}") not in named]
    if missing and not is_template:
        are = "is" if len(missing) == 1 else "are"
        raise InputError(f"{prog}: {', '.join(missing)} {are} missing; {prog} --help shows what to give")
    return [*alone, *flagged]


def _read(command: type[T], words: Sequence[str], prog: str) -> T:
    """The command that some flags make, without `--config` and `--print-config`, which are in its help only."""
    read: Any = tyro.cli(_with_own_flags(command), args=words, prog=prog, config=_PLAIN, registry=_registry)
    return command(**{field.name: getattr(read, field.name) for field in dataclasses.fields(cast(Any, command))})


def _with_own_flags(command: type) -> type:
    """The command with the two flags in its help; `--config` unless it has a field of this name."""
    own: Any = _PrintConfig if "config" in _fields(command) else _Own
    shown = dataclasses.make_dataclass(command.__name__, [], bases=(own, command), frozen=True)
    shown.__doc__ = command.__doc__
    return shown


_registry = ConstructorRegistry()


@_registry.primitive_rule
def _several(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Tuples of any length are shown as PATH ..."""
    inner = get_args(kind.type)
    if get_origin(kind.type) is not tuple or len(inner) != 2 or inner[1] is not Ellipsis:
        return None
    one = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(inner[0], kind.markers))
    assert isinstance(one, PrimitiveConstructorSpec)
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"{one.metavar} ...",
        instance_from_str=lambda words: tuple(one.instance_from_str([word]) for word in words),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda values: [word for value in values for word in one.str_from_instance(value)],
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """The words that follow a message about an unknown name: "; did you mean X?", or nothing if none is like it."""
    found = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {found[0]}?" if found else ""


def read_yaml(path: Path, inheriting: tuple[Path, ...] = ()) -> dict[Any, Any]:
    """The settings in a YAML file, over those of the file that its `inherits` names (relative to it).

    A name without suffix and folder, such as olmo-clip, is that of settings in `SHIPPED`, unless there is such a file.
    InputError if one cannot be read, holds something else, or inherits from itself (`inheriting` are its heirs).
    """
    if path.name == str(path) and not path.suffix and not path.exists():
        path = _shipped(path.name)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise InputError(f"--config {path}: {line}no YAML ({error.problem or error.context})") from None
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {path}: cannot be read ({first_line(error)})") from None
    if not isinstance(settings, dict):
        raise InputError(f"--config {path}: expected lines of the form 'per_token: 20'")
    base = settings.pop("inherits", None)
    if base is None:
        return settings
    heirs = (*inheriting, path.resolve())
    below = path.parent / str(base)
    if Path(str(base)).name == str(base) and not Path(str(base)).suffix and not below.exists():
        below = _shipped(str(base))
    if below.resolve() in heirs:
        raise InputError(f"--config {path}: inherits from {base}, which inherits from it")
    return read_yaml(below, heirs) | settings


def _shipped(name: str) -> Path:
    """The file of the shipped settings with this name. Raises InputError for an unknown name."""
    names = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
    if name not in names:
        raise InputError(f"--config {name}: no such file, and no shipped settings of this name ({', '.join(names)})")
    return SHIPPED / f"{name}.yaml"


def flags_of(settings: dict[Any, Any], command: type, where: str, given: Sequence[str] = ()) -> list[str]:
    """Settings as flags of `command`, without those that `given`, the command line, sets itself.

    Raises InputError, naming `where` they stand and what is valid, for an unknown field, a value of another
    type, or one that a template left open.
    """
    fields = _fields(command)
    arguments: list[str] = []
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            known = nearest(name, fields) or f"; expected some of {', '.join(sorted(fields))}"
            raise InputError(f"{where}: no field {key!r}{known}")
        flag = name.replace("_", "-")
        mentioned = (f"--{flag}", f"--no-{flag}")
        if value is None or any(word.replace("_", "-").split("=")[0] in mentioned for word in given):
            continue
        if value in (REQUIRED, [REQUIRED]):
            raise InputError(f"{where}: {key}: still says {REQUIRED}; put a value there, or give --{flag}")
        kind = fields[name]
        _require_type(kind, value, f"{where}: {key}")
        if isinstance(value, bool):
            arguments.append(mentioned[0] if value else mentioned[1])
        elif kind is str:
            # As one word, or a value that begins with "-" would be taken for a flag.
            arguments.append(f"{mentioned[0]}={','.join(map(str, value)) if isinstance(value, list) else value}")
        else:
            arguments += [mentioned[0], *map(str, value if isinstance(value, list) else [value])]
    return arguments


def _require_type(kind: Any, value: Any, where: str) -> None:
    """InputError unless YAML's value is one of the field's type, or a text that is read as one."""
    from pydantic import TypeAdapter, ValidationError

    if isinstance(value, bool) != (kind is bool):
        expected = "true or false" if kind is bool else "another value (as text it stands in quotes)"
        raise InputError(f"{where}: found {value!r}, expected {expected}")
    read = value if get_origin(kind) is not tuple or isinstance(value, list) else [value]
    if kind is str:
        kind, read = tuple[str | int | float, ...], value if isinstance(value, list) else [value]
    elif get_args(kind)[:1] == (str,) and isinstance(read, list):
        read = list(map(str, read))
    try:
        TypeAdapter(kind).validate_python(read)
    except ValidationError as error:
        said = error.errors()[0]["msg"].partition("Input should be ")[2] or "one value of another type"
        raise InputError(f"{where}: found {value!r}, expected {said}") from None


def _fields(command: type) -> dict[str, Any]:
    """All fields with their types, those of nested dataclasses included, but not what stands without a flag."""
    found: dict[str, Any] = {}
    own = {field.name for field in dataclasses.fields(command)}
    for name, kind in get_type_hints(command, include_extras=True).items():
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            found |= _fields(kind)
        elif name in own and get_origin(kind) is not Annotated:
            found[name] = kind
    return found


def _to_print(command: type, words: Sequence[str], prog: str) -> dict[str, Any]:
    """The settings that some flags make. What is missing of them is `REQUIRED`, and then nothing is checked."""
    named = {word.split("=")[0].replace("_", "-") for word in words}
    missing = [name for name in _required(command) if f"--{name.replace('_', '-')}" not in named]
    fields = _fields(command)
    unnamed = any(get_origin(kind) is Annotated for kind in get_type_hints(command, include_extras=True).values())
    if not missing and not unnamed:
        return _settings(_read(command, words, prog), fields)
    unchecked = _unchecked(command)
    placeholders = [f"--{name.replace('_', '-')}={REQUIRED}" for name in missing]
    return _settings(_read(unchecked, [*words, *placeholders], prog), fields)


def _required(command: type) -> list[str]:
    found = []
    fields, hints = _fields(command), get_type_hints(command)
    for field in dataclasses.fields(command):
        if dataclasses.is_dataclass(hints[field.name]):
            found += _required(hints[field.name])
        elif field.name in fields and field.default is field.default_factory is dataclasses.MISSING:
            found.append(field.name)
    return found


def _unchecked(command: type) -> type:
    """The same flags, without what the dataclasses check when they are made."""
    hints = get_type_hints(command, include_extras=True)
    fields: list[Any] = []
    for field in dataclasses.fields(command):
        kind, default = hints[field.name], field.default
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            plain = _unchecked(kind)
            factory: Any = dataclasses.MISSING if _required(kind) else plain
            fields.append((field.name, plain, dataclasses.field(default_factory=factory)))
        elif get_origin(kind) is Annotated:  # what stands without a flag is no setting: any number of words
            fields.append((field.name, tyro.conf.Positional[tuple[str, ...]], dataclasses.field(default=())))
        else:
            fields.append((field.name, kind, dataclasses.field(default=default)))
    return dataclasses.make_dataclass(command.__name__, fields, frozen=True, kw_only=True)


def _settings(parsed: Any, fields: Iterable[str]) -> dict[str, Any]:
    """The fields that have flags, as YAML takes them."""
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(parsed):
        value = getattr(parsed, field.name)
        if dataclasses.is_dataclass(value):
            settings |= _settings(value, fields)
        elif field.name in fields:
            settings[field.name] = (
                [_plain(item) for item in value] if isinstance(value, (tuple, list)) else _plain(value)
            )
    return settings


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value
