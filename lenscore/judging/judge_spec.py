"""What a judge is to those who plan, pay and ask: the class that its SPEC in ``--judge`` stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:  # the client takes a second to import
    from lenscore.judging.answers import AnsweringJudge
    from lenscore.judging.api import Endpoint
    from lenscore.judging.budget_hold import BudgetHold
    from lenscore.judging.money import Tariff, Tier
    from lenscore.judging.patches import ImagePatches, PatchRef
    from lenscore.judging.request_policy import RequestPolicy
    from storage_layouts.ledger import Ledger


class PatchTruth(Protocol):
    """Who knows what is on the patches of a run; asked once, when the run is planned."""

    def qualifying(self, image: ImagePatches) -> list[PatchRef]:
        """The patches of an image of which it knows what they show."""
        ...

    def known(self, image: ImagePatches, place: PatchRef) -> dict[str, Any]:
        """What is kept of a qualifying patch: ``right``, all right words; perhaps ``edge_distance``."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the plan of the run says of it, with ``notes`` for the user."""
        ...


@dataclass(frozen=True)
class JudgeSpec(ABC):
    """One judge, as the command line names it; `read` of a kind makes it.

    Attributes:
        spec: the words of the command line.
        where: address of a server, or file of replies; else "".
        model: the model that is asked, or "".

    """

    spec: str
    where: str = ""
    model: str = ""

    grammar: ClassVar[str]
    """What is written for it."""
    reads_scenes: ClassVar[bool] = False
    """Whether it asks nothing: it knows which words are right; see `truth`."""

    @classmethod
    @abstractmethod
    def read(cls, spec: str) -> JudgeSpec | None:
        """The judge of this kind that a SPEC names; None if it names none. InputError if it names one wrongly."""

    @abstractmethod
    def open(self, max_output_tokens: int, policy: RequestPolicy, ledger: Ledger, hold: BudgetHold) -> AnsweringJudge:
        """Who answers the questions. One that costs money keeps every reply in `ledger`, within what `hold` allows."""

    def truth(self, images: Iterable[ImagePatches], cover: float) -> PatchTruth:
        """Of a judge that asks nothing: what it knows of these images.

        ``cover`` is the part of a patch that an object has to cover, where that can be chosen.
        """
        raise NotImplementedError

    @property
    def inputs(self) -> dict[str, Any]:
        """What the run's identity says of its files."""
        return {}

    @property
    def resolved(self) -> str:
        """The SPEC that means the same in every working folder."""
        return self.spec


@dataclass(frozen=True)
class ServiceSpec(JudgeSpec):
    """A model that is asked over the network."""

    is_paid: ClassVar[bool] = True
    """Whether it certainly costs money. (Another one costs what --prices says.)"""
    batches: ClassVar[bool] = False
    """Whether its questions are sent together, and answered within a day."""

    @abstractmethod
    def endpoint(self, max_output_tokens: int) -> Endpoint:
        """Where and how it is asked."""

    def tier(self, policy: RequestPolicy) -> Tier:
        """Which of the model's prices holds."""
        return ""

    def tariff(self, policy: RequestPolicy) -> Tariff:
        """What its calls cost. Raises InputError for a model without a price."""
        from lenscore.judging.money import tariff

        return tariff(self.model, self.tier(policy), policy.prices, free=not self.is_paid)

    def open(self, max_output_tokens: int, policy: RequestPolicy, ledger: Ledger, hold: BudgetHold) -> AnsweringJudge:
        """See `JudgeSpec.open`. InputError where its price or its key is not known."""
        from lenscore.judging.service_judge import ServiceJudge

        return ServiceJudge(self, max_output_tokens, policy, ledger, hold)
