"""Judges by their SPEC, the value of ``--judge``.

- ``truth...``: the exact answer in the shapes world (lenscore/judging/truth_judge.py).
- ``openai:MODEL``: the Responses API; the key is in OPENAI_API_KEY, another address may be in OPENAI_BASE_URL.
- ``openai-batch:MODEL``: the same questions as batches, within a day and at half the price.
- ``http://host:port/v1#MODEL`` (or https): any server with compatible chat completions and images; a key, if it needs
  one, is in JUDGE_API_KEY.
- ``replay:FILE``: replies that a ledger holds; ``replay:FILE#MODEL`` where it holds those of several models.

Several SPECs, with commas between them, are a panel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from lenscore.judging.truth_judge import TruthJudge
from storage_layouts.errors import InputError

GRAMMAR = "truth, truth:ASPECT, openai:MODEL, openai-batch:MODEL, http://host:port/v1#MODEL, or replay:FILE"

Kind = Literal["truth", "openai", "openai-batch", "compatible", "replay"]


@dataclass(frozen=True)
class JudgeSpec:
    """One judge. Raises InputError for a SPEC that does not exist."""

    spec: str

    def __post_init__(self) -> None:
        _ = self._parts
        if self.kind == "truth":
            TruthJudge(self.spec)

    @property
    def kind(self) -> Kind:
        """What it is."""
        return self._parts[0]

    @property
    def where(self) -> str:
        """Address of a compatible server, or file of replies; else ""."""
        return self._parts[1]

    @property
    def model(self) -> str:
        """The model that is asked, or ""."""
        return self._parts[2]

    @property
    def is_service(self) -> bool:
        """Whether questions go to a service over the network."""
        return self.kind in ("openai", "openai-batch", "compatible")

    @property
    def is_paid(self) -> bool:
        """Whether it certainly costs money. (A compatible server costs what --prices says.)"""
        return self.kind in ("openai", "openai-batch")

    @property
    def resolved(self) -> str:
        """The SPEC that means the same in every working folder."""
        if self.kind != "replay":
            return self.spec
        return f"replay:{Path(self.where).resolve()}" + (f"#{self.model}" if self.model else "")

    @cached_property
    def _parts(self) -> tuple[Kind, str, str]:
        if self.spec.startswith(("http://", "https://")):
            url, _, model = self.spec.partition("#")
            if not model or not url.partition("://")[2]:
                raise InputError(f"--judge {self.spec}: expected http://host:port/v1#MODEL, with a model behind the #")
            return "compatible", url.rstrip("/"), model
        name, colon, rest = self.spec.partition(":")
        if name in ("openai", "openai-batch") and colon:
            if not rest:
                raise InputError(f"--judge {self.spec}: expected {name}:MODEL")
            return ("openai" if name == "openai" else "openai-batch"), "", rest
        if name == "replay" and colon:
            file, _, model = rest.partition("#")
            if not Path(file).exists():
                raise InputError(f"--judge {self.spec}: {file}: no such file; expected a ledger of lens judge")
            return "replay", file, model
        if name == "truth":
            return "truth", "", ""
        raise InputError(f"--judge {self.spec}: no such judge; expected {GRAMMAR}")


def read_specs(judge: str) -> tuple[JudgeSpec, ...]:
    """The judges of a run; several are a panel. Raises InputError for one that does not exist, or is named twice."""
    specs = tuple(JudgeSpec(spec.strip()) for spec in judge.split(","))
    twice = [one.spec for one in specs if specs.count(one) > 1]
    if twice:
        raise InputError(f"--judge {twice[0]}: named twice; --repeats asks one judge several times")
    return specs
