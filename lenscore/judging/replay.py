"""A judge that asks nobody: it repeats the replies that a ledger holds to the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lenscore.judging.answers import Answer, Request
from storage_layouts.errors import InputError
from storage_layouts.ledger_lines import read_answers

MISSING = "no reply to this question is recorded"


class Replay:
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

    def answers(self, requests: Sequence[Request]) -> dict[str, Answer]:
        """The recorded answers by key; a question without one fails."""
        missing = Answer(error=MISSING)
        return {one.key: self._answers.get((one.question.sha256, one.repeat), missing) for one in requests}
