"""A judge behind a service, as a worker uses it: questions in, answers out, nothing asked that is known already."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from lenscore.judging.answers import Answer, Request, Told
from lenscore.judging.asking import Asker
from lenscore.judging.batch import BatchAsker
from lenscore.judging.books import Books
from lenscore.judging.budget_hold import BudgetHold
from lenscore.judging.judge_spec import ServiceSpec
from lenscore.judging.questions import Question
from lenscore.judging.request_policy import RequestPolicy
from lenscore.judging.service import Service
from storage_layouts.ledger import Ledger

SECONDS_BETWEEN_NEWS = 1.0


class ServiceJudge:
    """A model that is asked over the network. Raises InputError where its price or its key is not known."""

    def __init__(
        self, spec: ServiceSpec, max_output_tokens: int, policy: RequestPolicy, ledger: Ledger, hold: BudgetHold
    ) -> None:
        self._spec = spec
        self._policy = policy
        self._ledger = ledger
        self._hold = hold
        self._checked = False
        self.endpoint = spec.endpoint(max_output_tokens)
        self._books = Books(self.endpoint, spec.tariff(policy), policy, ledger)
        self._asker = (BatchAsker if spec.batches else Asker)(self._books, hold)

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
