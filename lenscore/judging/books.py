"""What is known of a question, and what replies mean and cost: between the ledger and those who ask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lenscore.judging.answers import UNKNOWN, Answer, Failure, Request
from lenscore.judging.api import Endpoint
from lenscore.judging.money import Tariff
from lenscore.judging.reply_parsing import ApiReply, read_batch_line, read_response
from lenscore.judging.request_policy import RequestPolicy
from storage_layouts.ledger import Call, Ledger

MOST_TIMES_THE_WORST = 100
"""A bill of more than so many worst cases is no bill, but a mistake of the service."""


class Books:
    """The books of one judge."""

    def __init__(self, endpoint: Endpoint, tariff: Tariff, policy: RequestPolicy, ledger: Ledger) -> None:
        self.endpoint = endpoint
        self.tariff = tariff
        self.policy = policy
        self.ledger = ledger

    def known(self, request: Request) -> Answer | None:
        """The answer to a request that need not or must not be sent; None for one that may be sent or is under way.

        A reply that was kept when a worker died, and that nobody has read, is read now.
        """
        state = self.ledger.state(request.key)
        if state == "kept" and (call := self.ledger.kept(request.key)) is not None:
            status, text, whole = self.ledger.received_of(call)
            outcome = self.settled(call, request, status, text, whole)
            return outcome if isinstance(outcome, Answer) else None
        if state == "answered":
            found = self.ledger.answer(request.key)
            assert found is not None
            return Answer.recorded(found)
        if state == "unknown":
            if not self.policy.resend_unknown:
                return Answer(error=UNKNOWN)
            self.ledger.lost(self.ledger.open_calls(request.key))
        return None

    def read_kept(self, requests: Iterable[Request]) -> None:
        """Read the replies that were kept when a worker died, and that nobody has read."""
        for request in requests:
            if self.ledger.state(request.key) == "kept":
                self.known(request)

    def settled(self, call: Call, request: Request | None, status: int, text: str, whole: bool) -> Answer | Failure:
        """Read the reply to a call, which the ledger holds already, and write down what it says and costs.

        An error costs nothing, unless it says how many tokens it took. A reply that was cut off, or that nobody can
        read, may have been paid and counts as the worst case.
        """
        said = read_batch_line(self.endpoint.api, text) if call.batch else self._read(status, text, whole)
        usage, cost = self._bill(said, call)
        if said.failure:
            if status >= 300:
                self.ledger.released([call])
            elif said.usage is None and said.may_be_paid:
                self.ledger.lost([call])
            else:
                self.ledger.failed(call, cost if said.usage else 0)
            return Failure(said.failure, said.status, said.code)
        kept = self._record(request, said, usage)
        self.ledger.answered(call, kept, cost)
        return Answer.recorded({**kept, "cost": cost})

    def _read(self, status: int, text: str, whole: bool) -> ApiReply:
        return read_response(self.endpoint.api, status, text, whole)

    def _bill(self, said: ApiReply, call: Call) -> tuple[dict[str, int], int]:
        """Tokens and nanodollars of a reply.

        What the service counted is believed, even above the worst case; not if it is no count, or beyond reason. Then
        no tokens are known, and the worst case is taken.
        """
        if said.usage is None:
            return {}, call.reserved
        needs_flex = self.policy.service_tier == "flex" and not call.batch
        cost = self.tariff.cost(said.usage, discounted=not needs_flex or said.tier == "flex")
        believed = cost <= MOST_TIMES_THE_WORST * call.reserved
        return (said.usage, cost) if believed else ({}, call.reserved)

    def _record(self, request: Request | None, said: ApiReply, usage: dict[str, int]) -> dict[str, Any]:
        """An answer as the ledger keeps it: what it says, and what was asked (None: by another run)."""
        endpoint = self.endpoint
        return {
            "judge": {"api": endpoint.api, "url": endpoint.url, "model": endpoint.model},
            "question": request.question.sha256 if request else None,
            "prompt": request.question.prompt if request else None,
            "repeat": request.repeat if request else 0,
            "text": said.text,
            "refused": said.refused,
            "usage": usage,
        } | ({"note": said.note} if said.note else {})
