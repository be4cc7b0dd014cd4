"""Sends questions to a paid judge, each at most once and within the budget, and records every answer.

A request is written into the ledger, with its worst case reserved, before it is sent, and its reply before it is read;
so a process may be killed anywhere. Requests that were under way then are not sent again unless asked to, because they
may have been paid. A response without an answer (an error, a web page, a truncated body) is requested again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import openai

from lenscore.judging.judges.batch import BatchAsker
from lenscore.judging.judges.books import Books
from lenscore.judging.judges.connection import Connection, Wire
from lenscore.judging.judges.judge_spec import Answer, Failure, ProgressCallback, Request
from lenscore.judging.judges.pauses import backoff
from lenscore.judging.judges.services import ServiceSpec
from lenscore.judging.questions import Question
from lenscore.judging.spending.budget_hold import BudgetHold
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.errors import InputError
from storage_layouts.ledger import Call, Ledger

FAILURES_IN_A_ROW = 20
"""The command stops after so many failed calls in a row, since the service is probably broken. Of errors that may pass,
only those count after which a question was given up."""
REFUSALS_IN_A_ROW = 3
"""The command stops after so many permanent refusals without an answer between them."""
SECONDS_BETWEEN_NEWS = 1.0
_LOOK_SECONDS = 0.2


class ServiceJudge:
    """A model behind a network service. Raises InputError if its price or its key is unknown."""

    def __init__(
        self, spec: ServiceSpec, max_output_tokens: int, policy: RequestPolicy, ledger: Ledger, hold: BudgetHold
    ) -> None:
        self._spec = spec
        self._policy = policy
        self._ledger = ledger
        self._hold = hold
        self._checked = False
        self._endpoint = spec.endpoint(max_output_tokens)
        self._books = Books(self._endpoint, spec.tariff(policy), policy, ledger)
        self._asker = (BatchAsker if spec.batches else Asker)(self._books, hold)

    def request(self, question: Question, repeat: int) -> Request:
        """See `AnsweringJudge`."""
        return Request(self._endpoint.key(question, repeat), question, repeat)

    def answers(self, requests: Sequence[Request], progress: ProgressCallback) -> dict[str, Answer]:
        """See `AnsweringJudge`. Answers in the ledger need neither the service nor a key."""
        self._ledger.refresh()
        self._books.read_kept(requests)
        if all(self._ledger.state(request.key) == "answered" for request in requests):
            return {key: Answer.recorded(self._ledger.answer(key) or {}) for key in {one.key for one in requests}}
        try:
            return asyncio.run(self._ask(requests, progress))
        finally:
            self._hold.release()

    async def _ask(self, requests: Sequence[Request], progress: ProgressCallback) -> dict[str, Answer]:
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

        service = Connection(self._spec.where or None, self._policy, say)
        telling = asyncio.create_task(tell())
        try:
            if not self._checked:
                await service.check(self._spec.model)
                self._checked = True
            return await self._asker.ask(service, requests)
        finally:
            telling.cancel()
            await service.client.close()


class Asker:
    """Sends one request for each question. Not thread-safe; `ask` may be called again and again."""

    def __init__(self, books: Books, hold: BudgetHold) -> None:
        self._books = books
        self._ledger = books.ledger
        self._endpoint = books.endpoint
        self._policy = books.policy
        self._hold = hold
        self._failed_in_a_row = 0
        self._refused_in_a_row = 0
        self._sending = 0
        self._stop: Exception | None = None

    async def ask(self, service: Connection, requests: Sequence[Request]) -> dict[str, Answer]:
        """The answers by key. Requests with an answer in the ledger are not sent.

        Raises InputError if the budget is used up or the service refuses permanently; calls under way are awaited.
        """
        self._ledger.refresh()
        self._stop = None
        answers: dict[str, Answer] = {}
        todo = iter({request.key: request for request in requests}.values())

        async def take() -> None:
            for request in todo:
                if self._stop is not None:
                    return
                try:
                    answers[request.key] = await self._answer(service, request)
                except Exception as error:
                    self._stop = self._stop or error

        await asyncio.gather(*(take() for _ in range(self._policy.concurrency)))
        if self._stop is not None:
            raise self._stop
        return answers

    async def _answer(self, service: Connection, request: Request) -> Answer:
        """The answer from the ledger, or from the service once a call is allowed."""
        failures = 0
        while True:
            while service.pause > 0:
                await self._wait(service.pause)
            known = self._books.known(request)
            if known is not None:
                return known
            call = await self._begin(request)
            if call is None:
                continue
            outcome = await self._send(service, request, call)
            if isinstance(outcome, Answer) or outcome.is_refusal:
                self._failed_in_a_row = self._refused_in_a_row = 0
                return outcome if isinstance(outcome, Answer) else Answer(outcome.reason, refused=True)
            failures += 1
            self._count(service, outcome, last=failures > self._policy.retries)
            if failures > self._policy.retries or not outcome.passes:
                return Answer(error=outcome.reason)
            if not outcome.waits:
                await self._wait(backoff(failures - 1))

    async def _begin(self, request: Request) -> Call | None:
        """Record a call as sent, with its worst case reserved. None: look at the ledger again, then try again.

        Raises InputError if the budget is used up.
        """
        if self._ledger.state(request.key) != "under way":
            # The full price, because a flex request may be answered and billed at it.
            worst = self._books.tariff.worst(request.question, self._endpoint.max_output_tokens)
            calls = self._hold.send([(request.key, worst)], time.time() + 2 * self._policy.request_timeout)
            if calls is None:
                # Replies under way mostly cost less than was reserved for them.
                if self._sending == 0 or self._stop is not None:
                    raise InputError(self._hold.refusal(worst))
                await asyncio.sleep(_LOOK_SECONDS / 4)
                return None
            # Another writer of the same request has recorded it before looking here: at least one sees the other.
            self._ledger.refresh()
            others = [call for call in self._ledger.open_calls(request.key) if call.writer != self._ledger.writer]
            if not others and self._ledger.state(request.key) != "answered":
                return calls[0]
            self._ledger.released(calls)
            # Both may have released their calls: then they try again at different times.
            await asyncio.sleep((hash(self._ledger.writer) % 97) / 97 * _LOOK_SECONDS)
        await asyncio.sleep(_LOOK_SECONDS)
        self._ledger.refresh()
        return None

    async def _send(self, service: Connection, request: Request, call: Call) -> Answer | Failure:
        """Send a recorded call once; its reply is recorded, then read."""
        api = self._endpoint.api
        flex = api == "responses" and self._policy.service_tier == "flex"
        self._sending += 1
        wire = Wire()
        try:
            body = self._endpoint.body(request.question) | ({"service_tier": "flex"} if flex else {})
            came = await service.send(api, body, wire)
        except BaseException as error:
            # The request may have been paid once a byte has left.
            (self._ledger.lost if wire.began else self._ledger.released)([call])
            if isinstance(error, openai.APIConnectionError):
                return Failure(service.plain(error))
            raise
        else:
            self._ledger.received(call, came.status, came.text, came.whole)
            outcome = self._books.settled(call, request, came.status, came.text, came.whole)
            if 300 <= came.status < 400:
                raise service.refusal(came.status, "", self._endpoint.model, came.location)
            return replace(outcome, waits=came.waits) if isinstance(outcome, Failure) else outcome
        finally:
            self._sending -= 1

    def _count(self, service: Connection, failure: Failure, last: bool) -> None:
        """Count a failed call. Raises InputError if further calls would fail as well."""
        if service.stop is not None:
            raise service.stop
        if failure.is_final:
            raise service.refusal(failure.status, failure.reason, self._endpoint.model)
        if not failure.passes:
            self._refused_in_a_row += 1
        elif last or failure.in_200:
            self._failed_in_a_row += 1
        if self._refused_in_a_row >= REFUSALS_IN_A_ROW:
            what = f"{self._refused_in_a_row} questions were refused one after the other"
        elif self._failed_in_a_row >= FAILURES_IN_A_ROW:
            what = f"{self._failed_in_a_row} calls failed one after the other"
        else:
            return
        raise InputError(
            f"--judge: {service.url}: {what}, the last with: {failure.reason}; what was answered is kept, repeat "
            "the command to go on"
        )

    async def _wait(self, seconds: float) -> None:
        """Wait, unless the command stops meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._stop is not None:
                raise self._stop
            await asyncio.sleep(min(left, 0.5))
