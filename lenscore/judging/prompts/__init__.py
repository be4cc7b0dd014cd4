"""Prompt templates, in files named NAME-VERSION.txt. A changed wording is a new version, never an edit.

A template is plain text in which ``{candidates}`` stands for the candidate words, as a JSON list. Other braces have no
meaning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from storage_layouts.errors import InputError

PLACEHOLDER = "{candidates}"
BUILT_IN = {"word": "word-1", "phrase": "phrase-1"}
"""The template for each way to describe a candidate, in its newest version."""


@dataclass(frozen=True)
class Prompt:
    """A template, and its name in records: ``word-1``, or a file's name with the hash of its text."""

    name: str
    template: str

    @classmethod
    def built_in(cls, describe: str) -> Prompt:
        """The built-in template for candidates described by ``word`` or ``phrase``."""
        name = BUILT_IN[describe]
        return cls(name, resources.files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8"))

    @classmethod
    def from_file(cls, path: Path) -> Prompt:
        """A user's template. Raises InputError if it is not readable UTF-8 or lacks ``{candidates}``."""
        try:
            template = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--prompt {path}: cannot be read ({error}); expected a text file in UTF-8") from None
        if PLACEHOLDER not in template:
            raise InputError(f"--prompt {path}: found no {PLACEHOLDER}; write it where the candidate words belong")
        return cls(f"{path.name} {hashlib.sha256(template.encode()).hexdigest()[:12]}", template)

    def filled(self, candidates: Sequence[str]) -> str:
        """The text with the candidates in it."""
        return self.template.replace(PLACEHOLDER, json.dumps(list(candidates), ensure_ascii=False))
