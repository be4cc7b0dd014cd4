"""The judge ``replay:FILE``: it repeats the replies of a ledger and sends nothing.

``replay:FILE#MODEL`` names the model where the ledger holds replies of several.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lenscore.judging.judges.judge_spec import Answer, JudgeSpec, ProgressCallback, Request
from lenscore.judging.questions import Question
from storage_layouts.errors import InputError
from storage_layouts.ledger_lines import read_answers

MISSING = "no reply to this question is recorded"


@dataclass(frozen=True)
class ReplaySpec(JudgeSpec):
    """The replies in a ledger."""

    grammar = "replay:FILE"

    @classmethod
    def read(cls, spec: str) -> ReplaySpec | None:
        """See `JudgeSpec.read`."""
        name, colon, rest = spec.partition(":")
        if name != "replay" or not colon:
            return None
        file, _, model = rest.partition("#")
        if not Path(file).exists():
            raise InputError(f"--judge {spec}: {file}: no such file; expected a ledger of lens judge")
        return cls(spec, file, model)

    def open(self, *_: object) -> ReplayJudge:
        """See `JudgeSpec.open`."""
        return ReplayJudge(Path(self.where), self.model)

    @property
    def resolved(self) -> str:
        """See `JudgeSpec.resolved`."""
        return f"replay:{Path(self.where).resolve()}" + (f"#{self.model}" if self.model else "")


class ReplayJudge:
    """The replies of one model in a ledger's file or folder.

    Raises InputError if there are none, or if there are several models and ``model`` is "".
    """

    def __init__(self, path: Path, model: str) -> None:
        self._answers: dict[tuple[str, int], Answer] = {}
        models = set()
        for record in read_answers(path):
            models.add(record["judge"]["model"])
            if record["question"] and model in ("", record["judge"]["model"]):
                self._answers.setdefault((record["question"], record["repeat"]), Answer.recorded(record))
        if len(models) > 1 and not model:
            named = ", ".join(sorted(models))
            raise InputError(f"--judge replay:{path}: holds replies of {named}; name one, as in replay:{path}#MODEL")
        if not self._answers:
            of = f" of {model}" if model else ""
            raise InputError(f"--judge replay:{path}: holds no replies{of}; expected a ledger of lens judge")

    def request(self, question: Question, repeat: int) -> Request:
        """See `AnsweringJudge`."""
        key = hashlib.sha256(f"lenscore.judging/replay/{question.sha256}/{repeat}".encode()).hexdigest()
        return Request(key, question, repeat)

    def answers(self, requests: Sequence[Request], progress: ProgressCallback) -> dict[str, Answer]:
        """The recorded answers by key; a question without one fails."""
        missing = Answer(error=MISSING)
        return {one.key: self._answers.get((one.question.sha256, one.repeat), missing) for one in requests}
