"""Asking a paid judge many questions at once: each at most once, each within the budget, each answer kept.

A request is written into the ledger, with its worst case reserved, before it is sent, and its reply before it is read;
so a process may be killed anywhere. Requests that were under way then are not sent again unless asked to, because they
may have been paid. A response without an answer (an error, a web page, a truncated body) is requested again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import openai

from lenscore.judging.answers import Answer, Failure, Request
from lenscore.judging.books import Books
from lenscore.judging.budget_hold import BudgetHold
from lenscore.judging.pauses import backoff
from lenscore.judging.service import Service, Wire
from storage_layouts.errors import InputError
from storage_layouts.ledger import Call

FAILURES_IN_A_ROW = 20
"""So many failed calls one after the other, and the service is taken for broken: asking on would only fail the rest.
Of errors that may pass, only those count after which a question was given up."""
REFUSALS_IN_A_ROW = 3
"""So many questions refused for good, with no answer between them, and it is not the questions that are wrong."""
_LOOK_SECONDS = 0.2


class _OutOfMoneyError(Exception):
    """The budget has no room for a request now."""


class _TakenError(Exception):
    """Another writer sends the same request at this moment."""


class Asker:
    """Asks one judge. Not for several threads; `ask` may be called again and again."""

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

    async def ask(self, service: Service, requests: Sequence[Request]) -> dict[str, Answer]:
        """The answers by key. Those in the ledger are not asked for again.

        Raises InputError when the money is used up or the service refuses for good; what was under way is awaited.
        """
        self._ledger.refresh()
        self._stop = None
        answers: dict[str, Answer] = {}
        todo = iter({request.key: request for request in requests}.values())
        await asyncio.gather(*(self._take(service, todo, answers) for _ in range(self._policy.concurrency)))
        if self._stop is not None:
            raise self._stop
        return answers

    async def _take(self, service: Service, todo: Iterator[Request], answers: dict[str, Answer]) -> None:
        for request in todo:
            if self._stop is not None:
                return
            try:
                answers[request.key] = await self._settled(service, request)
            except Exception as error:
                self._stop = self._stop or error

    async def _settled(self, service: Service, request: Request) -> Answer:
        """From the ledger, or from the judge as soon as it may be asked."""
        failures = 0
        while True:
            while service.pause > 0:
                await self._wait(service.pause)
            known = self._books.known(request)
            if known is not None:
                return known
            if self._ledger.state(request.key) == "under way":
                await self._look_again()
                continue
            try:
                outcome = await self._sent(service, request)
            except _TakenError:
                await self._look_again()
                continue
            except _OutOfMoneyError:
                # Replies under way mostly cost less than was reserved for them.
                if self._sending == 0 or self._stop is not None:
                    raise InputError(self._hold.refusal(self.worst(request))) from None
                await asyncio.sleep(_LOOK_SECONDS / 4)
                continue
            if isinstance(outcome, Answer):
                self._failed_in_a_row = self._refused_in_a_row = 0
                return outcome
            if outcome.is_refusal:
                self._failed_in_a_row = self._refused_in_a_row = 0
                return Answer(outcome.reason, refused=True)
            failures += 1
            self._count(service, outcome, last=failures > self._policy.retries)
            if failures > self._policy.retries or not outcome.passes:
                return Answer(error=outcome.reason)
            if not outcome.waits:
                await self._wait(backoff(failures - 1))

    async def _sent(self, service: Service, request: Request) -> Answer | Failure:
        """One call: its reply is kept, then read."""
        call = await self._begin(request)
        self._sending += 1
        wire = Wire()
        try:
            came = await service.send(self._endpoint.api, self._body(request), wire)
        except BaseException as error:
            # Unless not a byte has left, it may have been paid.
            (self._ledger.lost if wire.began else self._ledger.released)([call])
            if isinstance(error, openai.APIConnectionError):
                return Failure(service.plain(error))
            raise
        else:
            self._ledger.received(call, came.status, came.text, came.whole)
            outcome = self._books.settled(call, request, came.status, came.text, came.whole)
            if 300 <= came.status < 400:
                raise service.refusal(came.status, "", self._endpoint.model, came.location)
            if isinstance(outcome, Failure):
                return replace(outcome, waits=came.waits, in_200=came.status < 300)
            return outcome
        finally:
            self._sending -= 1

    def _body(self, request: Request) -> dict[str, Any]:
        flex = self._endpoint.api == "responses" and self._policy.service_tier == "flex"
        return self._endpoint.body(request.question) | ({"service_tier": "flex"} if flex else {})

    async def _begin(self, request: Request) -> Call:
        """Write a call down as sent, with its worst case reserved."""
        until = time.time() + 2 * self._policy.request_timeout
        calls = self._hold.send([(request.key, self.worst(request))], until)
        if calls is None:
            raise _OutOfMoneyError
        # Whoever sends the same request at this moment has written so before looking: at least one sees the other.
        self._ledger.refresh()
        others = [call for call in self._ledger.open_calls(request.key) if call.writer != self._ledger.writer]
        if others or self._ledger.state(request.key) == "answered":
            self._ledger.released(calls)
            # Both may have stepped back: then they come again at different times.
            await asyncio.sleep((hash(self._ledger.writer) % 97) / 97 * _LOOK_SECONDS)
            raise _TakenError
        return calls[0]

    def _count(self, service: Service, failure: Failure, last: bool) -> None:
        """Count a failed call. Raises InputError if asking on would be in vain."""
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
            f"--judge: {service.url}: {what}, the last with: {failure.reason}; what was answered is kept, repeat the "
            "command to go on"
        )

    def worst(self, request: Request) -> int:
        """Nanodollars at most; at the full price, since flex may be answered at it."""
        return self._books.tariff.worst(request.question, self._endpoint.max_output_tokens)

    async def _look_again(self) -> None:
        await asyncio.sleep(_LOOK_SECONDS)
        self._ledger.refresh()

    async def _wait(self, seconds: float) -> None:
        """Wait, unless the command stops meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._stop is not None:
                raise self._stop
            await asyncio.sleep(min(left, 0.5))
