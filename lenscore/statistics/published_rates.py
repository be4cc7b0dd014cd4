"""Published rates as data: the numbers, their sources, and the models that they belong to.

The shipped table is ``data/latentlens-paper.json`` (`PAPER`). A user's table has the same fields, in JSON or YAML;
``base: paper`` in it adds its entries to the shipped ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from storage_layouts.errors import InputError, first_line

PAPER = "paper"
"""The name of the shipped table."""

_PAPER_FILE = Path(__file__).parent / "data" / "latentlens-paper.json"
_ROUNDING = 0.0051


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class PublishedModel(_Strict):
    """The models of runs that a published name stands for.

    Attributes:
        ours: values of `lens analyze --model`, or labels in the report.
        made_of: settings of `lens train` that the model must have; folders and Hub names are compared by their last
            part.

    """

    ours: tuple[str, ...] = pydantic.Field((), strict=False)
    made_of: Mapping[str, Any] = {}


class PublishedRate(_Strict):
    """One published number.

    Attributes:
        model: its published name.
        lens: latent, logit, embedding, or another lens's name.
        layer: visual layer; None for the mean over layers.
        top_k: number of judged words.
        rate: share of patches, 0..1.
        n: number of patches; None if unknown, which leaves the published rate without an interval.
        source: a key of `Published.sources`.
        note: a remark for the reader.

    """

    model: str
    lens: str
    layer: int | None
    top_k: int = pydantic.Field(ge=1)
    rate: float = pydantic.Field(ge=0, le=1, strict=False)
    n: int | None = pydantic.Field(None, ge=1)
    source: str
    note: str = ""


class Published(_Strict):
    """A table of published rates; ``judge`` describes the judge for the reader."""

    title: str
    judge: str = ""
    sources: Mapping[str, str]
    models: Mapping[str, PublishedModel] = {}
    rates: tuple[PublishedRate, ...] = pydantic.Field(strict=False)


def read_published(file: str) -> Published:
    """The shipped table for ``paper``, else the one in a JSON or YAML file.

    Raises InputError (one line) if the file is missing, is neither, or has wrong fields or values.
    """
    where = f"--compare {file}"
    content = _parsed(_PAPER_FILE if file == PAPER else Path(file))
    if not isinstance(content, dict):
        raise InputError(f"{where}: found no table of fields; expected title, sources, models and rates")
    base = content.pop("base", None)
    if base not in (None, PAPER):
        raise InputError(f"{where}: base: found {str(base)[:50]!r}, expected {PAPER!r} or nothing")
    if base == PAPER:
        content = _added(_parsed(_PAPER_FILE), content)
    return _checked(content, where)


def _parsed(path: Path) -> Any:
    where = f"--compare {path}"
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except FileNotFoundError:
        raise InputError(f"{where}: no such file; expected one, or {PAPER!r} for the published table") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{where}: not readable as JSON or YAML: {first_line(error)}") from None


def _added(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The base with the entries of ``more`` added; for equal keys ``more`` takes precedence."""
    together = base | more
    for name in ("sources", "models"):
        if isinstance(more.get(name, {}), dict):
            together[name] = base[name] | more.get(name, {})
    if isinstance(more.get("rates", []), list):
        together["rates"] = base["rates"] + more.get("rates", [])
    return together


def _checked(content: Any, where: str) -> Published:
    try:
        table = Published.model_validate(content)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
        found = "" if problem["type"] == "missing" else f", found {str(problem['input'])[:50]!r}"
        raise InputError(f"{where}: {place}: {problem['msg']}{found}") from None
    for number, rate in enumerate(table.rates):
        for what, known in (("model", table.models), ("source", table.sources)):
            name = getattr(rate, what)
            if name not in known:
                choice = ", ".join(list(known)[:5]) or "nothing"
                raise InputError(f"{where}: rates[{number}].{what}: {name[:50]!r} is not listed; {what}s has {choice}")
        if rate.n is not None and abs(round(rate.rate * rate.n) / rate.n - rate.rate) > _ROUNDING:
            raise InputError(f"{where}: rates[{number}]: {rate.rate} is no share of n = {rate.n} patches")
    return table
