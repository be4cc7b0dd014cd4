"""An answer of a judge, as the ledger keeps it and as verdicts read it; and what came of a call instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lenscore.judging.questions import Question
from lenscore.judging.replies import read_reply
from lenscore.judging.reply_parsing import text_of
from storage_layouts.budget import NANODOLLARS

UNKNOWN = "sent when a worker died; whether it was paid is unknown (--resend-unknown sends it again)"
_PASSING = (408, 409, 425, 429)
_POLICIES = ("content_policy", "content_filter", "moderation")
_QUOTAS = ("insufficient_quota", "billing_hard_limit_reached")


Told = Callable[[int, str], None]
"""Takes how many requests are answered, and why everybody waits, or ""."""


class AnsweringJudge(Protocol):
    """Who is asked questions of pictures and words."""

    def request(self, question: Question, repeat: int) -> Request:
        """The question, with the key under which its answer is kept."""
        ...

    def answers(self, requests: Sequence[Request], progress: Told) -> dict[str, Answer]:
        """The answers by key. `progress` takes how many are answered, now and then, and why everybody waits."""
        ...


@dataclass(frozen=True)
class Request:
    """One question to one judge. ``repeat`` counts how often the same question was asked before."""

    key: str
    question: Question
    repeat: int = 0


@dataclass(frozen=True)
class Answer:
    """What came of a request.

    Attributes:
        text: the reply as it came.
        refused: the model declined.
        error: why there is no reply, or "".
        usage: tokens, as the service counted them.
        cost: nanodollars.
        note: why the text is empty or cut, or "".

    """

    text: str = ""
    refused: bool = False
    error: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    cost: int = 0
    note: str = ""

    @classmethod
    def recorded(cls, record: dict[str, Any]) -> Answer:
        """An answer from a ledger. Older versions kept a text as it came, which may be a list of parts."""
        note = record.get("note", "")
        return cls(text_of(record["text"]), record["refused"], "", record["usage"], record.get("cost", 0), note)

    def outcome(self, candidates: Sequence[str]) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """Outcome, fitting words and usage, as a `Verdict` has them."""
        if self.error:
            return "failed", (), {"error": self.error}
        usage = {**self.usage, "dollars": self.cost / NANODOLLARS}
        if self.refused:
            return "refused", (), usage
        read = read_reply(self.text, candidates)
        if read.dropped:
            usage["dropped"] = list(read.dropped)
        if read.outcome == "unparsable":
            usage["note"] = self.note or "the text holds no reply, or several"
        return read.outcome, read.fitting, usage


@dataclass(frozen=True)
class Failure:
    """A call that brought no answer.

    Attributes:
        reason: in the service's own words.
        status: HTTP status that it stands for; 0 where no reply came.
        code: the service's code and type of the error, or "".
        waits: the service said when to come again.
        in_200: it came with an HTTP status that says that all is well.

    """

    reason: str
    status: int = 0
    code: str = ""
    waits: bool = False
    in_200: bool = False

    @property
    def passes(self) -> bool:
        """Whether asking again may help."""
        passing = self.status < 400 or self.status in _PASSING or self.status >= 500
        return passing and not self.is_final

    @property
    def is_final(self) -> bool:
        """Whether no question will be answered: wrong key, no such model, no money left."""
        return self.status in (401, 402, 403, 404) or any(name in self.code for name in _QUOTAS)

    @property
    def is_refusal(self) -> bool:
        """Whether the service declines this question by its policy, as a model may do itself."""
        return any(name in self.code for name in _POLICIES)
