"""The judges, by the SPEC that names them in ``--judge``. A further judge is a class and its entry in `JUDGES`.

- ``truth...``: the exact answer in the shapes world (lenscore/judging/truth_judge.py).
- ``truth:FILE``: objects with their places and words, as the user knows them (lenscore/judging/truth_file_judge.py).
- ``openai:MODEL``: the Responses API; the key is in OPENAI_API_KEY, another address may be in OPENAI_BASE_URL.
- ``openai-batch:MODEL``: the same questions as batches, within a day and at half the price.
- ``http://host:port/v1#MODEL`` (or https): any server with compatible chat completions and images; a key, if it needs
  one, is in JUDGE_API_KEY.
- ``replay:FILE``: replies that a ledger holds; ``replay:FILE#MODEL`` where it holds those of several models.

Several SPECs, with commas between them, are a panel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lenscore.judging.judge_spec import JudgeSpec, ServiceSpec
from lenscore.judging.truth_file_judge import ObjectsSpec
from lenscore.judging.truth_judge import TruthJudge
from storage_layouts.errors import InputError

if TYPE_CHECKING:  # the client takes a second to import
    from lenscore.judging.answers import AnsweringJudge
    from lenscore.judging.api import Endpoint
    from lenscore.judging.money import Tier
    from lenscore.judging.patches import ImagePatches
    from lenscore.judging.request_policy import RequestPolicy


@dataclass(frozen=True)
class TruthSpec(JudgeSpec):
    """The exact answer in the shapes world."""

    grammar = "truth, truth:ASPECT"
    reads_scenes = True

    @classmethod
    def read(cls, spec: str) -> TruthSpec | None:
        """See `JudgeSpec.read`."""
        if spec.partition(":")[0] != "truth":
            return None
        TruthJudge(spec)
        return cls(spec)

    def truth(self, images: Iterable[ImagePatches], cover: float) -> TruthJudge:
        """See `JudgeSpec.truth`; half a patch is always enough."""
        return TruthJudge(self.spec)

    def open(self, *_: object) -> AnsweringJudge:
        """Never: see `JudgeSpec.reads_scenes`."""
        raise NotImplementedError


@dataclass(frozen=True)
class OpenAISpec(ServiceSpec):
    """A model of the Responses API, asked one question at a time."""

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
        """See `ServiceSpec`. A batch asks the same as single calls, so either finds the other's answers."""
        from lenscore.judging.api import Endpoint
        from lenscore.judging.service import default_url

        return Endpoint("responses", default_url(), self.model, max_output_tokens)

    def tier(self, policy: RequestPolicy) -> Tier:
        """See `ServiceSpec`."""
        return "flex" if policy.service_tier == "flex" else ""


@dataclass(frozen=True)
class OpenAIBatchSpec(OpenAISpec):
    """The same, in batches."""

    grammar = "openai-batch:MODEL"
    batches = True

    def tier(self, policy: RequestPolicy) -> Tier:
        """See `ServiceSpec`."""
        return "batch"


@dataclass(frozen=True)
class CompatibleSpec(ServiceSpec):
    """Any server with compatible chat completions."""

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
        """See `ServiceSpec`."""
        from lenscore.judging.api import Endpoint

        return Endpoint("chat", self.where, self.model, max_output_tokens)


@dataclass(frozen=True)
class ReplaySpec(JudgeSpec):
    """The replies that a ledger holds."""

    grammar = "replay:FILE"

    @classmethod
    def read(cls, spec: str) -> ReplaySpec | None:
        """See `JudgeSpec.read`."""
        name, colon, rest = spec.partition(":")
        if name != "replay" or not colon:
            return None
        file, _, model = rest.partition("#")
        if not Path(file).exists():
            raise InputError(f"--judge {spec}: {file}: no such file; expected a ledger of lens judge")
        return cls(spec, file, model)

    def open(self, *_: object) -> AnsweringJudge:
        """See `JudgeSpec.open`."""
        from lenscore.judging.replay import ReplayJudge

        return ReplayJudge(Path(self.where), self.model)

    @property
    def resolved(self) -> str:
        """With the whole path of the ledger."""
        return f"replay:{Path(self.where).resolve()}" + (f"#{self.model}" if self.model else "")


JUDGES: tuple[type[JudgeSpec], ...] = (ObjectsSpec, TruthSpec, OpenAISpec, OpenAIBatchSpec, CompatibleSpec, ReplaySpec)
"""Every kind of judge that `--judge` accepts."""


def read_specs(judge: str) -> tuple[JudgeSpec, ...]:
    """The judges of a run; several are a panel. Raises InputError for one that does not exist, or is named twice."""
    specs = tuple(_read(spec.strip()) for spec in judge.split(","))
    twice = [one.spec for one in specs if specs.count(one) > 1]
    if twice:
        raise InputError(f"--judge {twice[0]}: named twice; --repeats asks one judge several times")
    truths = [one.spec for one in specs if one.reads_scenes]
    if len(truths) > 1:
        raise InputError(
            f"--judge {','.join(truths)}: {len(truths)} truths; expected one, judge the others on their own"
        )
    return specs


def _read(spec: str) -> JudgeSpec:
    found = next((read for kind in JUDGES if (read := kind.read(spec)) is not None), None)
    if found is None:
        *first, last = (kind.grammar for kind in JUDGES)
        raise InputError(f"--judge {spec}: no such judge; expected {', '.join(first)}, or {last}")
    return found
