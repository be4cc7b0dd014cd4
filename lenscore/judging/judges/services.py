"""The judges that are models behind a network service.

- ``openai:MODEL``: the Responses API; the key is in OPENAI_API_KEY, another address may be in OPENAI_BASE_URL.
- ``openai-batch:MODEL``: the same questions as batches, within a day and at half the price.
- ``http://host:port/v1#MODEL`` (or https): any server with compatible chat completions and images; a key, if it needs
  one, is in JUDGE_API_KEY.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from lenscore.judging.judges.api import Endpoint
from lenscore.judging.judges.judge_spec import AnsweringJudge, JudgeSpec
from lenscore.judging.spending.budget_hold import BudgetHold
from lenscore.judging.spending.prices import Tariff, Tier, tariff
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.errors import InputError
from storage_layouts.ledger import Ledger


def default_url() -> str:
    """OpenAI's address, or the one in OPENAI_BASE_URL."""
    return (os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1").rstrip("/")


@dataclass(frozen=True)
class ServiceSpec(JudgeSpec):
    """A model behind a network service."""

    is_paid: ClassVar[bool] = True
    """Whether it always costs money. The others cost what --prices says."""
    batches: ClassVar[bool] = False
    """Whether its questions are sent together and answered within a day."""

    @abstractmethod
    def endpoint(self, max_output_tokens: int) -> Endpoint:
        """The model with its address and the shape of its requests."""

    def tier(self, policy: RequestPolicy) -> Tier:
        """The tier whose price applies."""
        return ""

    def tariff(self, policy: RequestPolicy) -> Tariff:
        """The price of its calls. Raises InputError for a model without a price."""
        return tariff(self.model, self.tier(policy), policy.prices, free=not self.is_paid)

    def open(self, max_output_tokens: int, policy: RequestPolicy, ledger: Ledger, hold: BudgetHold) -> AnsweringJudge:
        """See `JudgeSpec.open`. Raises InputError without a price or a key."""
        from lenscore.judging.judges.asking import ServiceJudge  # the client takes a second to import

        return ServiceJudge(self, max_output_tokens, policy, ledger, hold)


@dataclass(frozen=True)
class OpenAISpec(ServiceSpec):
    """A model of the Responses API, with one request for each question."""

    grammar = "openai:MODEL"

    @classmethod
    def read(cls, spec: str) -> ServiceSpec | None:
        """See `JudgeSpec.read`."""
        name, colon, model = spec.partition(":")
        if f"{name}:MODEL" != cls.grammar or not colon:
            return None
        if not model:
            raise InputError(f"--judge {spec}: expected {cls.grammar}")
        return cls(spec, model=model)

    def endpoint(self, max_output_tokens: int) -> Endpoint:
        """See `ServiceSpec.endpoint`. Equal for batches and single requests, so each finds the other's answers."""
        return Endpoint("responses", default_url(), self.model, max_output_tokens)

    def tier(self, policy: RequestPolicy) -> Tier:
        """See `ServiceSpec.tier`."""
        return "flex" if policy.service_tier == "flex" else ""


@dataclass(frozen=True)
class OpenAIBatchSpec(OpenAISpec):
    """A model of the Responses API, with many questions in a batch."""

    grammar = "openai-batch:MODEL"
    batches = True

    def tier(self, policy: RequestPolicy) -> Tier:
        """See `ServiceSpec.tier`."""
        return "batch"


@dataclass(frozen=True)
class CompatibleSpec(ServiceSpec):
    """A model of any server with compatible chat completions."""

    grammar = "http://host:port/v1#MODEL"
    is_paid = False

    @classmethod
    def read(cls, spec: str) -> CompatibleSpec | None:
        """See `JudgeSpec.read`."""
        if not spec.startswith(("http://", "https://")):
            return None
        url, _, model = spec.partition("#")
        if not model or not url.partition("://")[2]:
            raise InputError(f"--judge {spec}: expected {cls.grammar}, with a model behind the #")
        return cls(spec, url.rstrip("/"), model)

    def endpoint(self, max_output_tokens: int) -> Endpoint:
        """See `ServiceSpec.endpoint`."""
        return Endpoint("chat", self.where, self.model, max_output_tokens)
