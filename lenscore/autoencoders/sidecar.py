"""nla_meta.yaml, which says how the two models of a natural language autoencoder were trained.

The layout is that of the released checkpoints (Fraser-Taliente, Kantamneni, Ong et al. 2026,
transformer-circuits.pub/2026/nla; github.com/kitft/natural_language_autoencoders). Both are folders of Hugging Face models with this file beside:

    kind: nla_model
    role: av                          or ar; earlier actor, critic
    d_model: 3584
    extraction_layer_index: 20        k: the states are outputs of block k
    extraction:
      injection_scale: 150.0          of an av: the length that a state gets
    tokens:                           of an av: the token whose embedding the state replaces, between these two
      injection_char: "㈎"
      injection_token_id: 149705
      injection_left_neighbor_id: 29
      injection_right_neighbor_id: 522
      critic_suffix_ids: null         of an ar: the ids at the end of its input
    prompt_templates:
      av: ... <concept>{injection_char}</concept> ...
      ar: ... {explanation} ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from storage_layouts.errors import InputError, MissingFileError, first_line
from storage_layouts.fields import COUNT, NUMBER, SIZE, TEXT, Kind, check_fields, list_of, object_of, optional

SIDECAR = "nla_meta.yaml"
VERBALISER, RECONSTRUCTOR = ("av", "actor"), ("ar", "critic")
"""Roles, and names of their prompts, today and earlier."""
SQRT_WIDTH = "sqrt_d_model"
_SCALE = Kind(f"a number or {SQRT_WIDTH}", lambda value: value == SQRT_WIDTH or (NUMBER.fits(value) and value > 0))
_TOKENS = {
    "injection_char": TEXT,
    "injection_token_id": COUNT,
    "injection_left_neighbor_id": COUNT,
    "injection_right_neighbor_id": COUNT,
}


@dataclass(frozen=True)
class Sidecar:
    """The content of nla_meta.yaml of one model.

    Attributes:
        path: the file.
        content: its fields.
        role: `VERBALISER` or `RECONSTRUCTOR`.

    """

    path: Path
    content: Mapping[str, Any]
    role: tuple[str, str]

    @classmethod
    def read(cls, folder: Path, role: tuple[str, str], flag: str) -> Sidecar:
        """Read the file of a model with a role. Raises InputError if it is missing or of another kind or role."""
        path = folder / SIDECAR
        if not path.is_file():
            raise MissingFileError(
                f"{flag} {folder}: no {SIDECAR} in it; expected a folder of the model {role[0]} of a natural language "
                "autoencoder"
            )
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"{path}: not readable as YAML: {first_line(error)}") from None
        is_model = Kind("nla_model", lambda value: value == "nla_model")
        of_role = Kind(" or ".join(role), lambda value: value in role, optional=True)
        kinds = {"kind": is_model, "role": of_role, "d_model": SIZE, "prompt_templates": object_of(TEXT)}
        check_fields(path, content, kinds | {"extraction_layer_index": optional(COUNT)})
        found = cls(path, content, role)
        if role == VERBALISER:
            check_fields(path, content.get("tokens"), _TOKENS, within="tokens")
            check_fields(path, content.get("extraction"), {"injection_scale": _SCALE}, within="extraction")
        else:
            suffix = {"critic_suffix_ids": optional(list_of(COUNT))}
            check_fields(path, content.get("tokens") or {}, suffix, within="tokens")
        found.prompt(**dict.fromkeys(("injection_char", "explanation"), ""))
        return found

    @property
    def width(self) -> int:
        """Width of the states."""
        return int(self.content["d_model"])

    @property
    def block(self) -> int | None:
        """The block whose outputs were described; None if the file does not say."""
        inside = self.content.get("extraction") or {}
        found: int | None = self.content.get("extraction_layer_index", inside.get("layer_index"))
        return found

    @property
    def injection_scale(self) -> float:
        """The length that a state gets before a verbaliser reads it."""
        scale = self.content["extraction"]["injection_scale"]
        return float(self.width**0.5 if scale == SQRT_WIDTH else scale)

    def prompt(self, **texts: str) -> str:
        """The prompt with these texts in its places. Raises InputError if it has other places or is missing."""
        templates = self.content["prompt_templates"]
        name = next((name for name in self.role if name in templates), None)
        if name is None:
            raise InputError(f"{self.path}: no field prompt_templates.{self.role[0]}, the prompt of the model")
        try:
            return str(templates[name].format(**texts))
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(f"{self.path}: prompt_templates.{name} has a place that is not known: {error}") from None

    def require_width(self, width: int, of: str) -> None:
        """Raises InputError if the states are of another width."""
        if width != self.width:
            raise InputError(f"{self.path}: d_model is {self.width}, but the states of {of} have {width} numbers")
