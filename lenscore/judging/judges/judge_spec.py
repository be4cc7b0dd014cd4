"""The interface of a judge: the class that its SPEC in ``--judge`` stands for, its requests and its answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from lenscore.judging.judges.api import text_of
from lenscore.judging.patches import ImagePatches, PatchRef
from lenscore.judging.questions import Question
from lenscore.judging.replies import read_reply
from lenscore.judging.spending.budget_hold import BudgetHold
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.budget import NANODOLLARS
from storage_layouts.ledger import Ledger

UNKNOWN = "sent when a worker died; whether it was paid is unknown (--resend-unknown sends it again)"
"""The error of a request that may have been paid without a reply."""
_PASSING = (408, 409, 425, 429)
_POLICIES = ("content_policy", "content_filter", "moderation")
_QUOTAS = ("insufficient_quota", "billing_hard_limit_reached")

ProgressCallback = Callable[[int, str], None]
"""Takes the number of answered requests and the reason for a pause, "" without one."""


class PatchTruth(Protocol):
    """What is known of the patches of a run without asking; used once, at planning."""

    def qualifying(self, image: ImagePatches) -> list[PatchRef]:
        """The patches of an image for which there is an answer."""
        ...

    def known(self, image: ImagePatches, place: PatchRef) -> dict[str, Any]:
        """What the sample records of a qualifying patch: ``right``, all right words; maybe ``edge_distance``."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the plan of the run records, with ``notes`` for the user."""
        ...


@dataclass(frozen=True)
class JudgeSpec(ABC):
    """One judge, as the command line names it; made by the `read` of its class.

    Attributes:
        spec: the SPEC.
        where: address of a server or path of a replay file, else "".
        model: name of the model, or "".

    """

    spec: str
    where: str = ""
    model: str = ""

    grammar: ClassVar[str]
    """The form of its SPEC, for messages."""
    reads_scenes: ClassVar[bool] = False
    """Whether it knows the right words instead of answering questions (see `truth`); then `open` is never called."""

    @classmethod
    @abstractmethod
    def read(cls, spec: str) -> JudgeSpec | None:
        """The judge that a SPEC names; None if it is not of this class. Raises InputError if it is, but wrong."""

    def open(self, max_output_tokens: int, policy: RequestPolicy, ledger: Ledger, hold: BudgetHold) -> AnsweringJudge:
        """The judge that answers questions. A paid one records each reply in `ledger` and spends what `hold` allows."""
        raise NotImplementedError

    def truth(self, images: Iterable[ImagePatches], cover: float) -> PatchTruth:
        """What a judge with `reads_scenes` knows of these images.

        ``cover`` is the share of a patch that an object has to cover, if this can be chosen.
        """
        raise NotImplementedError

    @property
    def inputs(self) -> dict[str, Any]:
        """Its files, as they enter the identity of the run."""
        return {}

    @property
    def resolved(self) -> str:
        """The SPEC with absolute paths, so that it means the same in every working folder."""
        return self.spec


class AnsweringJudge(Protocol):
    """A judge that answers questions of pictures and words."""

    def request(self, question: Question, repeat: int) -> Request:
        """The question with the key of its answer."""
        ...

    def answers(self, requests: Sequence[Request], progress: ProgressCallback) -> dict[str, Answer]:
        """The answers by key. `progress` is called now and then."""
        ...


@dataclass(frozen=True)
class Request:
    """One question to one judge. ``repeat`` counts how often the same question was asked before."""

    key: str
    question: Question
    repeat: int = 0


@dataclass(frozen=True)
class Answer:
    """The result of a request.

    Attributes:
        text: the reply of the model, unparsed.
        refused: the model declined.
        error: why there is no reply, or "".
        usage: token counts of the service.
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
        """An answer from a ledger. In ledgers of older versions the text may be a list of parts."""
        note = record.get("note", "")
        return cls(text_of(record["text"]), record["refused"], "", record["usage"], record.get("cost", 0), note)

    def outcome(self, candidates: Sequence[str]) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """Outcome, fitting words and usage, as the fields of a `Verdict`."""
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
    """A call without an answer.

    Attributes:
        reason: in the service's own words.
        status: HTTP status that it stands for; 0 where no reply came.
        code: the service's code and type of the error, or "".
        waits: the reply says when to send the next request.
        in_200: the HTTP status of the reply was below 300.

    """

    reason: str
    status: int = 0
    code: str = ""
    waits: bool = False
    in_200: bool = False

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed later."""
        passing = self.status < 400 or self.status in _PASSING or self.status >= 500
        return passing and not self.is_final

    @property
    def is_final(self) -> bool:
        """Whether every request will fail: wrong key, no such model, no money left."""
        return self.status in (401, 402, 403, 404) or any(name in self.code for name in _QUOTAS)

    @property
    def is_refusal(self) -> bool:
        """Whether the service declines this question by its policy, as a model may do itself."""
        return any(name in self.code for name in _POLICIES)
