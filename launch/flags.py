"""From dataclasses to flags: every field of a job is a flag, and a YAML file may set them."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints

import tyro
import yaml
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from launch.flag_values import checked, flag_of, is_flag, require_values
from launch.terminal import print_out
from storage_layouts.errors import InputError, first_line, nearest

T = TypeVar("T")

SHIPPED = Path(str(resources.files("lenscore.training"))) / "configs"
"""Settings for `lens train`: the models and ablations of the LatentLens paper."""

REQUIRED = "REQUIRED"
"""Placeholder in a template for a value that must be given."""


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


class _Flag(NamedTuple):
    kind: Any
    """The type of the field."""
    default: Any
    """`dataclasses.MISSING` for a required flag."""
    words: tuple[str, ...]
    """The flag on the command line; for most switches also its negative form."""


def parse(
    command: type[T],
    argv: Sequence[str] | None,
    prog: str,
    completed: Callable[[list[str]], list[str]] = lambda words: words,
) -> T:
    """Parse a command line into a dataclass. Fields of nested dataclasses become flags too.

    `--config FILE` sets flags that are not given (unless the command has a field `config`). `--print-config` prints
    the settings as YAML that `--config` takes, and exits.

    Args:
        command: the dataclass.
        argv: the words; by default those of this process.
        prog: name of the command in messages.
        completed: returns the words with what they bring along, as from a store that they name.

    Raises:
        InputError: unknown flag, wrong value, missing flag, or a word that belongs to no flag.

    """
    words = list(sys.argv[1:] if argv is None else argv)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    own.add_argument("--print-config", action="store_true")
    if "config" not in _flags(command):
        own.add_argument("--config", type=Path)
    try:
        given, rest = own.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise InputError(f"{prog}: {error.argument_name}: {error.message}") from None
    if getattr(given, "config", None) is not None:
        rest = flags_of(read_yaml(given.config), command, f"--config {given.config}", rest) + rest
    rest = ["--help"] if {"-h", "--help"} & set(rest) else _checked(command, completed(rest), prog, given.print_config)
    if given.print_config:
        print_out(yaml.safe_dump(_template(command, rest, prog), sort_keys=False).rstrip())
        sys.exit(0)
    return _read(command, rest, prog)


def _checked(command: type, words: Sequence[str], prog: str, is_template: bool) -> list[str]:
    """Returns the command line with the positional words first.

    Raises InputError for an unknown flag, a value of another type, a superfluous word and, except for a template, a
    missing flag or word.
    """
    flags = _flags(command)
    known = [word for flag in flags.values() for word in flag.words]
    for word in _named(words):
        if is_flag(word) and word not in known:
            raise InputError(f"{prog}: no flag {word}{nearest(word, known)}; {prog} --help shows all")
    alone, flagged = checked(words, {name: flag.kind for name, flag in flags.items()}, prog)
    places = _positionals(command)
    takes_any = any(get_origin(kind) is tuple for kind in places.values())
    if not takes_any and len(alone) > len(places):
        raise InputError(f"{prog}: found {alone[len(places)]!r}, which belongs to no flag; {prog} --help shows all")
    missing = [] if takes_any else [name.upper() for name in list(places)[len(alone) :]]
    missing += _missing(command, words)
    if missing and not is_template:
        are = "is" if len(missing) == 1 else "are"
        raise InputError(f"{prog}: {', '.join(missing)} {are} missing; {prog} --help shows what to give")
    return [*alone, *flagged]


def _read(command: type[T], words: Sequence[str], prog: str) -> T:
    """Parse checked words with tyro, whose help then also has `--config` and `--print-config`."""
    own: Any = _PrintConfig if "config" in _flags(command) else _Own
    shown = dataclasses.make_dataclass(command.__name__, [], bases=(own, command), frozen=True)
    shown.__doc__ = command.__doc__
    read: Any = tyro.cli(shown, args=words, prog=prog, config=_PLAIN, registry=_registry)
    return command(**{field.name: getattr(read, field.name) for field in dataclasses.fields(cast(Any, command))})


_registry = ConstructorRegistry()


@_registry.primitive_rule
def _several(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Shows tuples of any length as PATH ..."""
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


def read_yaml(path: Path, inheriting: tuple[Path, ...] = ()) -> dict[Any, Any]:
    """Read the settings in a YAML file, merged over those of the file that its `inherits` names (relative to it).

    A name without suffix and folder, such as olmo-clip, refers to the settings in `SHIPPED` unless such a file exists.
    `inheriting` are the files that inherit from this one. Raises InputError if the file cannot be read, is not a
    mapping, or inherits from itself.
    """
    path = _settings_file(str(path))
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
    below = _settings_file(str(base), path.parent)
    if below.resolve() in heirs:
        raise InputError(f"--config {path}: inherits from {base}, which inherits from it")
    return read_yaml(below, heirs) | settings


def _settings_file(name: str, folder: Path = Path()) -> Path:
    """Returns the file of this name or that of shipped settings. Raises InputError for a bare name that is neither."""
    path = folder / name
    if path.exists() or path.suffix or Path(name).name != name:
        return path
    names = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
    if name not in names:
        raise InputError(f"--config {name}: no such file, and no shipped settings of this name ({', '.join(names)})")
    return SHIPPED / f"{name}.yaml"


def flags_of(settings: dict[Any, Any], command: type, where: str, given: Sequence[str] = ()) -> list[str]:
    """Convert settings to flags of a command.

    Args:
        settings: values by the names of fields.
        command: the dataclass of the command.
        where: the place of the settings in messages.
        given: the command line; its flags are left out.

    Raises:
        InputError: unknown field, value of another type, or a placeholder of a template.

    """
    flags, named = _flags(command), _named(given)
    arguments: list[str] = []
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if name not in flags:
            known = nearest(name, flags) or f"; expected some of {', '.join(sorted(flags))}"
            raise InputError(f"{where}: no field {key!r}{known}")
        kind, _, words = flags[name]
        if value is None or set(words) & set(named):
            continue
        if value in (REQUIRED, [REQUIRED]):
            raise InputError(f"{where}: {key}: still says {REQUIRED}; put a value there, or give {words[0]}")
        if kind is bool and not isinstance(value, bool):
            raise InputError(f"{where}: {key}: found {value!r}, expected true or false")
        if kind is bool:
            arguments += words[:1] if value else words[1:]
            continue
        values = _words_of(kind, value, f"{where}: {key}")
        # A text in one word: a separate value that begins with "-" would be parsed as a flag.
        arguments += [f"{words[0]}={','.join(values)}"] if kind is str else [words[0], *values]
    return arguments


def _words_of(kind: Any, value: Any, where: str) -> list[str]:
    """Returns a YAML value as words of the command line. Raises InputError unless a flag of this type takes them."""
    takes_several = kind is str or get_origin(kind) is tuple
    values = value if isinstance(value, list) and takes_several else [value]
    if any(isinstance(one, (list, dict)) for one in values):
        raise InputError(f"{where}: found {value!r}, expected one value")
    if any(isinstance(one, bool) for one in values):
        raise InputError(f"{where}: found {value!r}, expected another value (as text it stands in quotes)")
    words = list(map(str, values))
    require_values(kind, words, where)
    return words


def _flags(command: type) -> dict[str, _Flag]:
    """Returns the flags of a command by the names of their fields, those of nested dataclasses included."""
    found: dict[str, _Flag] = {}
    hints, positionals = get_type_hints(command, include_extras=True), _positionals(command)
    for field in dataclasses.fields(command):
        kind, flag = hints[field.name], flag_of(field.name)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            found |= _flags(kind)
        elif get_origin(kind) is not Annotated:
            words = (flag, f"--no-{flag[2:]}") if kind is bool else (flag,)
            found[field.name] = _Flag(kind, field.default, words)
        elif field.name not in positionals:  # a switch without a negative form
            found[field.name] = _Flag(get_args(kind)[0], field.default, (flag,))
    return found


def _positionals(command: type) -> dict[str, Any]:
    """Returns the types of the fields that are given without a flag, in order."""
    hints = get_type_hints(command, include_extras=True)
    return {
        name: get_args(kind)[0]
        for name, kind in hints.items()
        if get_origin(kind) is Annotated and tyro.conf.Positional in get_args(kind)
    }


def _named(words: Sequence[str]) -> list[str]:
    """Returns the flags among the words, without their values."""
    return [word.split("=")[0].replace("_", "-") for word in words if word.startswith("-")]


def _missing(command: type, words: Sequence[str]) -> list[str]:
    """Returns the required flags that are not among the words."""
    required = [flag.words[0] for flag in _flags(command).values() if flag.default is dataclasses.MISSING]
    return [flag for flag in required if flag not in _named(words)]


def _template(command: type, words: Sequence[str], prog: str) -> dict[str, Any]:
    """Returns the settings that the words make, with `REQUIRED` for those that are missing."""
    missing = _missing(command, words)
    if not missing and not _positionals(command):
        _read(command, words, prog)  # raises InputError for values that the command refuses
    fields: list[Any] = [
        (name, flag.kind, dataclasses.field(default=flag.default)) for name, flag in _flags(command).items()
    ]
    # Positional words are no settings: any number of them.
    fields.append(("positionals", tyro.conf.Positional[tuple[str, ...]], dataclasses.field(default=())))
    unchecked = dataclasses.make_dataclass(command.__name__, fields, frozen=True, kw_only=True)
    read: Any = _read(unchecked, [*words, *(f"{flag}={REQUIRED}" for flag in missing)], prog)
    return {name: _plain(getattr(read, name)) for name in _flags(command)}


def _plain(value: Any) -> Any:
    """Returns a setting as YAML takes it."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
