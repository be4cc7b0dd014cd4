"""A judge behind a service, as a worker uses it: questions in, answers out, nothing asked that is known already."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from lenscore.judging.answers import Answer, Request
from lenscore.judging.api import Endpoint
from lenscore.judging.asking import Asker
from lenscore.judging.batch import BatchAsker
from lenscore.judging.books import Books
from lenscore.judging.budget_hold import BudgetHold
from lenscore.judging.judges import JudgeSpec
from lenscore.judging.money import Tariff, tariff
from lenscore.judging.questions import Question
from lenscore.judging.replay import Replay
from lenscore.judging.request_policy import RequestPolicy
from lenscore.judging.service import Service, default_url
from storage_layouts.ledger import Ledger

SECONDS_BETWEEN_NEWS = 1.0
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


class ServiceJudge:
    """A model that is asked over the network. Raises InputError where its price or its key is not known."""

    def __init__(
        self, spec: JudgeSpec, max_output_tokens: int, policy: RequestPolicy, ledger: Ledger, hold: BudgetHold
    ) -> None:
        self._spec = spec
        self._policy = policy
        self._ledger = ledger
        self._hold = hold
        self._checked = False
        self.endpoint = endpoint_of(spec, max_output_tokens)
        self._books = Books(self.endpoint, tariff_of(spec, policy), policy, ledger)
        self._asker = (BatchAsker if spec.kind == "openai-batch" else Asker)(self._books, hold)

    def request(self, question: Question, repeat: int) -> Request:
        """See `AnsweringJudge`."""
        return Request(self.endpoint.key(question, repeat), question, repeat)

    def answers(self, requests: Sequence[Request], progress: Told) -> dict[str, Answer]:
        """See `AnsweringJudge`. What the ledger holds needs neither the service nor a key."""
        self._ledger.refresh()
        self._books.read_kept(requests)
        if all(self._ledger.state(request.key) == "answered" for request in requests):
            return {key: Answer.recorded(self._ledger.answer(key) or {}) for key in {one.key for one in requests}}
        try:
            return asyncio.run(self._ask(requests, progress))
        finally:
            self._hold.release()

    async def _ask(self, requests: Sequence[Request], progress: Told) -> dict[str, Answer]:
        why = ""

        def answered() -> int:
            return sum(self._ledger.state(request.key) == "answered" for request in requests)

        def say(words: str) -> None:
            nonlocal why
            why = words
            progress(answered(), why)

        async def tell() -> None:
            while True:
                progress(answered(), why if service.pause > 0 else "")
                await asyncio.sleep(SECONDS_BETWEEN_NEWS)

        service = Service(self._spec.where or None, self._policy, say)
        telling = asyncio.create_task(tell())
        try:
            if not self._checked:
                await service.check(self._spec.model)
                self._checked = True
            return await self._asker.ask(service, requests)
        finally:
            telling.cancel()
            await service.close()


class ReplayJudge:
    """A ledger that is asked in place of the model that wrote it."""

    def __init__(self, spec: JudgeSpec) -> None:
        self._replay = Replay(Path(spec.where), spec.model)

    def request(self, question: Question, repeat: int) -> Request:
        """See `AnsweringJudge`."""
        key = hashlib.sha256(f"lenscore.judging/replay/{question.sha256}/{repeat}".encode()).hexdigest()
        return Request(key, question, repeat)

    def answers(self, requests: Sequence[Request], progress: Told) -> dict[str, Answer]:
        """See `AnsweringJudge`."""
        return self._replay.answers(requests)


def endpoint_of(spec: JudgeSpec, max_output_tokens: int) -> Endpoint:
    """Where a judge is asked. A batch asks the same as single calls, so either finds the other's answers."""
    if spec.kind == "compatible":
        return Endpoint("chat", spec.where, spec.model, max_output_tokens)
    return Endpoint("responses", default_url(), spec.model, max_output_tokens)


def tariff_of(spec: JudgeSpec, policy: RequestPolicy) -> Tariff:
    """What a judge's calls cost. InputError if nobody knows."""
    tier = {"openai-batch": "batch", "openai": "flex" if policy.service_tier == "flex" else ""}.get(spec.kind, "")
    return tariff(spec.model, tier, policy.prices, free=not spec.is_paid)  # type: ignore[arg-type]
