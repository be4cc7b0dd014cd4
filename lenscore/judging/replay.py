"""A judge that asks nobody: it repeats the replies that a ledger holds to the same questions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from lenscore.judging.answers import Answer, Request, Told
from lenscore.judging.questions import Question
from storage_layouts.errors import InputError
from storage_layouts.ledger_lines import read_answers

MISSING = "no reply to this question is recorded"


class ReplayJudge:
    """The replies in a ledger's file or folder, of one model.

    Raises InputError if it holds none, or those of several models and none of them is named.
    """

    def __init__(self, path: Path, model: str = "") -> None:
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

    def answers(self, requests: Sequence[Request], progress: Told) -> dict[str, Answer]:
        """The recorded answers by key; a question without one fails."""
        missing = Answer(error=MISSING)
        return {one.key: self._answers.get((one.question.sha256, one.repeat), missing) for one in requests}
