"""Sends questions through the Batch API: files of requests that are answered within a day, at half the price.

A batch carries its name in its metadata, and its requests are in the ledger under that name before it is created. So
after a crash the batch is found again; if the service does not list it, it was never created and cost nothing.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import openai

from lenscore.judging.judges.api import plain
from lenscore.judging.judges.books import Books
from lenscore.judging.judges.connection import Connection
from lenscore.judging.judges.judge_spec import Answer, Failure, Request
from lenscore.judging.spending.budget_hold import BudgetHold
from storage_layouts.errors import InputError
from storage_layouts.files import canonical_json
from storage_layouts.ledger import Call

MOST_REQUESTS = 49_000
MOST_BYTES = 190_000_000
"""Below the service's limits of 50,000 requests and 200 MB a file."""
NAME = "lenscore_batch"
"""The field of a batch's metadata that holds its name."""
MOST_TRIES = 4
"""How often a request is sent if its batch expired, or if the service answered with an error."""
_CUSTOM_ID = re.compile(r'"custom_id"\s*:\s*"(\w+)"')
_ENDED = ("completed", "failed", "expired", "cancelled")
_PATH: Final = "/v1/responses"
_LIFE_SECONDS = 30 * 86400.0
"""After this time no request of a batch is under way."""
_UPLOAD_SECONDS = 3600.0
"""A batch may be created so long after its requests were recorded."""


class BatchAsker:
    """Sends the questions of one judge in batches, with the `ask` and the request keys of `judges.asking.Asker`."""

    def __init__(self, books: Books, hold: BudgetHold) -> None:
        self._books = books
        self._endpoint = books.endpoint
        self._policy = books.policy
        self._ledger = books.ledger
        self._hold = hold

    async def ask(self, service: Connection, requests: Sequence[Request]) -> dict[str, Answer]:
        """The answers by key. Collects the batches of earlier workers before it sends the requests that remain.

        Raises InputError if the budget is used up, a batch was cancelled or refused, or the service cannot be reached.
        """
        try:
            return await self._ask(service, {request.key: request for request in requests})
        except openai.APIError as error:
            raise service.refusal_of(error, self._endpoint.model) from None

    async def _ask(self, service: Connection, requests: dict[str, Request]) -> dict[str, Answer]:
        failed: dict[str, Failure] = {}
        tries: Counter[str] = Counter()
        while True:
            self._ledger.refresh()
            self._books.read_kept(requests.values())
            left = {call.batch for call in self._ledger.open_calls() if call.batch and call.key in requests}
            if left:
                failed |= await self._collect(service, left, {}, requests)
            todo = [request for request in requests.values() if self._may_be_sent(request, failed, tries)]
            if not todo:
                return {key: self._outcome(request, failed) for key, request in requests.items()}
            batches = await self._submit_all(service, todo, tries)
            failed |= await self._collect(service, set(batches), batches, requests)

    def _may_be_sent(self, request: Request, failed: dict[str, Failure], tries: Counter[str]) -> bool:
        """False for a request that is answered, failed permanently or too often, or may have been paid."""
        failure = failed.get(request.key)
        if tries[request.key] >= MOST_TRIES or (failure is not None and not _comes_again(failure)):
            return False
        return self._books.known(request) is None

    def _outcome(self, request: Request, failed: dict[str, Failure]) -> Answer:
        known = self._books.known(request)
        if known is not None:
            return known
        failure = failed.get(request.key)
        return Answer(error=failure.reason if failure else f"unanswered in {MOST_TRIES} batches")

    # Sending

    async def _submit_all(self, service: Connection, requests: list[Request], tries: Counter[str]) -> dict[str, Any]:
        """Send requests in as many batches as the budget allows; returns the batches by name."""
        batches: dict[str, Any] = {}
        for costs, content in self._files(requests):
            name = f"{self._ledger.writer}-{self._ledger.calls_sent}"
            calls = self._hold.send(costs, time.time() + _LIFE_SECONDS, batch=name)
            if calls is None:
                if batches:
                    break  # once these are settled, the budget may allow more
                raise InputError(self._hold.refusal(sum(worst for _, worst in costs)))
            batches[name] = await self._create(service, name, content, calls)
            tries.update(key for key, _ in costs)
        return batches

    def _files(self, requests: list[Request]) -> Iterator[tuple[list[tuple[str, int]], bytes]]:
        """Files of as many requests as the service and the budget allow: keys with worst cases, and the content."""
        costs: list[tuple[str, int]] = []
        lines: list[bytes] = []
        size = money = 0
        available = self._hold.available()
        for request in requests:
            body = self._endpoint.body(request.question)
            line = canonical_json({"custom_id": request.key, "method": "POST", "url": _PATH, "body": body}) + b"\n"
            # A batch is always billed at its own price.
            worst = self._books.tariff.worst(request.question, self._endpoint.max_output_tokens, discounted=True)
            full = len(lines) >= MOST_REQUESTS or size + len(line) > MOST_BYTES
            if lines and (full or (available is not None and money + worst > available)):
                yield costs, b"".join(lines)
                costs, lines, size, money = [], [], 0, 0
                available = self._hold.available()
            costs.append((request.key, worst))
            lines.append(line)
            size, money = size + len(line), money + worst
        if lines:
            yield costs, b"".join(lines)

    async def _create(self, service: Connection, name: str, content: bytes, calls: list[Call]) -> Any:
        try:
            files = service.client.files
            file = await service.patiently(lambda: files.create(file=(f"{name}.jsonl", content), purpose="batch"))
        except openai.OpenAIError:
            self._ledger.released(calls)  # a file alone is not paid
            raise
        # Before each repetition the batch is looked up: if only the reply was lost, a second batch would cost again.
        batches = service.client.batches
        for tries_left in reversed(range(self._policy.retries + 1)):
            try:
                return await batches.create(
                    input_file_id=file.id, endpoint=_PATH, completion_window="24h", metadata={NAME: name}
                )
            except openai.APIStatusError as error:
                if not tries_left or (error.status_code != 429 and error.status_code < 500):
                    self._ledger.released(calls)
                    raise
            except openai.APIConnectionError:
                if not tries_left:
                    raise  # the calls stay open: a later command looks for the batch again
            await asyncio.sleep(min(5.0, self._policy.poll_seconds))
            if found := await self._listed(service, {name}):
                return found[name]
        raise AssertionError("the last try returns or raises")

    # Collecting

    async def _collect(
        self, service: Connection, names: set[str], batches: dict[str, Any], requests: dict[str, Request]
    ) -> dict[str, Failure]:
        """Wait for the named batches, of which ``batches`` were just created, and settle all their calls.

        Returns the failures by request key.
        """
        failed: dict[str, Failure] = {}
        cancelled = ""
        while names:
            batches = batches | await self._listed(service, names - batches.keys())
            for name in sorted(names):
                if name not in batches:
                    if self._was_never_created(name):
                        self._ledger.released(self._calls(name))
                        names = names - {name}
                elif (batch := batches[name]).status in _ENDED:
                    failed |= await self._settle(service, name, batch, requests)
                    names = names - {name}
                    cancelled = batch.id if batch.status == "cancelled" else cancelled
                    if batch.status == "failed":
                        raise InputError(f"--judge: {service.url} refused the batch {batch.id}: {_first_error(batch)}")
            if names:
                await asyncio.sleep(self._policy.poll_seconds)
                self._ledger.refresh()
                known = {name: batch.id for name, batch in batches.items() if name in names}
                retrieve = service.client.batches.retrieve
                batches = {name: await service.patiently(partial(retrieve, found)) for name, found in known.items()}
        if cancelled:
            raise InputError(
                f"--judge: the batch {cancelled} was cancelled; what it finished is kept, repeat the command to send "
                "the rest"
            )
        return failed

    def _was_never_created(self, name: str) -> bool:
        """Whether no worker can still create a batch that the service does not list."""
        return all(
            call.writer == self._ledger.writer
            or self._ledger.is_gone(call.writer)
            or time.time() > call.until - _LIFE_SECONDS + _UPLOAD_SECONDS
            for call in self._calls(name)
        )

    async def _settle(
        self, service: Connection, name: str, batch: Any, requests: dict[str, Request]
    ) -> dict[str, Failure]:
        """Record and read the lines of an ended batch, and settle its unanswered calls; returns the failures by key."""
        calls = {call.key: call for call in self._calls(name)}
        failed: dict[str, Failure] = {}
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            file = await service.patiently(partial(service.client.files.content, file_id))
            for line in file.content.decode("utf-8", "surrogateescape").split("\n"):
                call = next((calls.pop(key) for key in _CUSTOM_ID.findall(line) if key in calls), None)
                if call is None:
                    continue
                self._ledger.received(call, 200, line)
                outcome = self._books.settled(call, requests.get(call.key), 200, line, True)
                if isinstance(outcome, Failure):
                    failed[call.key] = outcome
        # A completed batch has a line for every request: one without may have been paid.
        (self._ledger.lost if batch.status == "completed" else self._ledger.released)(calls.values())
        return failed

    def _calls(self, name: str) -> list[Call]:
        return [call for call in self._ledger.open_calls() if call.batch == name]

    async def _listed(self, service: Connection, names: set[str]) -> dict[str, Any]:
        """The service's batches of these names, by name."""

        async def listed() -> dict[str, Any]:
            found: dict[str, Any] = {}
            async for batch in service.client.batches.list(limit=100):
                name = batch.metadata.get(NAME) if isinstance(batch.metadata, dict) else None
                if name in names:
                    found[name] = batch
                    if len(found) == len(names):
                        break
            return found

        return await service.patiently(listed) if names else {}


def _comes_again(failure: Failure) -> bool:
    """Whether a request that failed in one batch goes into another."""
    return failure.passes or any(code in failure.code for code in ("batch_expired", "batch_cancelled"))


def _first_error(batch: Any) -> str:
    errors = (batch.errors and batch.errors.data) or []
    return plain(str(errors[0].message)) if errors else "it does not say why"
