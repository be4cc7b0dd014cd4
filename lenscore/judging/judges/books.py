"""The accounting of one paid judge: what the ledger knows of a question, and what a reply says and costs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lenscore.judging.judges.api import ApiReply, Endpoint, read_batch_line, read_response
from lenscore.judging.judges.judge_spec import UNKNOWN, Answer, Failure, Request
from lenscore.judging.spending.prices import Tariff
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.ledger import Call, Ledger

MOST_TIMES_THE_WORST = 100
"""A cost above so many worst cases is an error of the service."""


class Books:
    """The accounting of one judge in a ledger."""

    def __init__(self, endpoint: Endpoint, tariff: Tariff, policy: RequestPolicy, ledger: Ledger) -> None:
        self.endpoint = endpoint
        self.tariff = tariff
        self.policy = policy
        self.ledger = ledger

    def known(self, request: Request) -> Answer | None:
        """The answer to a request that need not or must not be sent; None for one that may be sent or is under way.

        A reply that was recorded but not yet read, because its worker died, is read now.
        """
        state = self.ledger.state(request.key)
        if state == "kept" and (call := self.ledger.kept(request.key)) is not None:
            outcome = self.settled(call, request, *self.ledger.received_of(call))
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
        """Read the replies that were recorded but not yet read, because their workers died."""
        for request in requests:
            if self.ledger.state(request.key) == "kept":
                self.known(request)

    def settled(self, call: Call, request: Request | None, status: int, text: str, whole: bool) -> Answer | Failure:
        """Read the recorded reply to a call, and write its result and its cost into the ledger.

        An error costs nothing, unless it comes with token counts. A reply that is cut off or unreadable may have been
        paid and counts as the worst case.

        Args:
            call: the call.
            request: its request; None if it is of another run.
            status: HTTP status.
            text: body of the reply.
            whole: whether the body is complete.

        """
        api = self.endpoint.api
        reply = read_batch_line(api, text) if call.batch else read_response(api, status, text, whole)
        usage, cost = self._bill(reply, call)
        if reply.failure:
            if status >= 300:
                self.ledger.released([call])
            elif reply.usage is None and reply.may_be_paid:
                self.ledger.lost([call])
            else:
                self.ledger.failed(call, cost if reply.usage else 0)
            return Failure(reply.failure, reply.status, reply.code, in_200=status < 300)
        record = self._record(request, reply, usage)
        self.ledger.answered(call, record, cost)
        return Answer.recorded({**record, "cost": cost})

    def _bill(self, reply: ApiReply, call: Call) -> tuple[dict[str, int], int]:
        """Token counts and nanodollars of a reply.

        The service's counts are used, even above the worst case. If they are missing, impossible or beyond reason, the
        cost is the worst case.
        """
        if reply.usage is None:
            return {}, call.reserved
        needs_flex = self.policy.service_tier == "flex" and not call.batch
        cost = self.tariff.cost(reply.usage, discounted=not needs_flex or reply.tier == "flex")
        return (reply.usage, cost) if cost <= MOST_TIMES_THE_WORST * call.reserved else ({}, call.reserved)

    def _record(self, request: Request | None, reply: ApiReply, usage: dict[str, int]) -> dict[str, Any]:
        """An answer as the ledger keeps it."""
        endpoint = self.endpoint
        return {
            "judge": {"api": endpoint.api, "url": endpoint.url, "model": endpoint.model},
            "question": request.question.sha256 if request else None,
            "prompt": request.question.prompt if request else None,
            "repeat": request.repeat if request else 0,
            "text": reply.text,
            "refused": reply.refused,
            "usage": usage,
        } | ({"note": reply.note} if reply.note else {})
