"""Money of a judge run: its terms, the check before it starts, and the estimate of its cost."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pydantic

from jobs.base import validation_error
from jobs.judge_settings import JudgeSettings
from jobs.judged_sample import JudgedSample
from lenscore.judging.judges.judge_spec import JudgeSpec, Request
from lenscore.judging.judges.services import ServiceSpec
from lenscore.judging.questions import ask
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.budget import NANODOLLARS, Budget
from storage_layouts.errors import InputError
from storage_layouts.files import read_json, write_json
from storage_layouts.ledger import Ledger
from storage_layouts.runs import RunFolder
from storage_layouts.verify_money import TERMS, TERMS_REMEDY

BILLED_TOGETHER = 4096
"""Patches whose questions are counted together, image by image; the memory that an estimate takes grows with it."""


@dataclass(frozen=True)
class Bill:
    """Estimated cost of one judge.

    Attributes:
        judge: its SPEC.
        calls: number of different requests.
        answered: requests with an answer in the ledger.
        input_tokens, output_tokens: estimate for the other requests; images are counted by the model's rule.
        image_tokens: part of the input tokens.
        dollars: estimated cost.
        worst: maximal cost in dollars, if each request is sent once.
        source: source of the price.

    """

    judge: str
    calls: int
    answered: int
    input_tokens: int
    image_tokens: int
    output_tokens: int
    dollars: float
    worst: float
    source: str


def keep_terms(settings: JudgeSettings, run: RunFolder) -> None:
    """Write the terms for the workers; a limit of this command replaces the one before."""
    policy = settings.policy
    content = asdict(policy)
    write_json(run.path / TERMS, {k: str(v.resolve()) if isinstance(v, Path) else v for k, v in content.items()})
    if policy.max_cost is not None or policy.no_limit:
        Budget(run.path / "budget").set_limit(policy.limit)
    elif not any(_costs(spec, policy) for spec in settings.specs):
        Budget(run.path / "budget").set_limit(0)


def read_terms(run: RunFolder) -> RequestPolicy:
    """The terms of the last command."""
    file = run.path / TERMS
    try:
        return pydantic.TypeAdapter(RequestPolicy).validate_python(read_json(file, TERMS_REMEDY))
    except pydantic.ValidationError as error:
        raise InputError(f"{file}: {validation_error(error)}; {TERMS_REMEDY}") from None


def ledger_folder(run: Path, policy: RequestPolicy) -> Path:
    """Folder of the requests and replies of a run."""
    return policy.ledger or run / "ledger"


def require_terms(settings: JudgeSettings) -> None:
    """See `JudgeJob.check_terms`."""
    from lenscore.judging.judges.connection import require_key, unsafe_key  # the client takes a second to import

    budget = Budget(settings.out / "budget")
    budget.refresh()
    limited = budget.is_set or settings.policy.max_cost is not None or settings.policy.no_limit
    warnings: dict[str, None] = {}
    for spec in settings.specs:
        if _costs(spec, settings.policy) and not limited:
            raise InputError(
                f"--judge {spec.spec}: it costs money; expected --max-cost DOLLARS (--plan shows an estimate), or "
                "--no-limit"
            )
        if isinstance(spec, ServiceSpec):
            require_key(spec.where or None)
            warnings[unsafe_key(spec.where or None)] = None
    for warning in warnings:
        if warning:
            print(f"judge: warning: {warning}", file=sys.stderr)


def _costs(spec: JudgeSpec, policy: RequestPolicy) -> bool:
    if not isinstance(spec, ServiceSpec):
        return False
    price = spec.tariff(policy).price
    return bool(spec.is_paid or price.input or price.output)


def bills(settings: JudgeSettings, run: RunFolder) -> list[Bill]:
    """See `JudgeJob.bill`."""
    sample = JudgedSample(settings, run)
    ledger = Ledger(ledger_folder(settings.out, settings.policy), run.run_id)
    ledger.refresh()
    return [_bill(settings, spec, run, sample, ledger) for spec in settings.specs if isinstance(spec, ServiceSpec)]


def _bill(settings: JudgeSettings, spec: ServiceSpec, run: RunFolder, sample: JudgedSample, ledger: Ledger) -> Bill:
    endpoint, tariff = spec.endpoint(settings.max_output_tokens), spec.tariff(settings.policy)
    seen: set[str] = set()
    answered = images = worst = 0
    usage = {"input_tokens": 0, "output_tokens": 0}
    for request in _requests(settings, run, sample, endpoint):
        if request.key in seen:
            continue
        seen.add(request.key)
        if ledger.state(request.key) in ("answered", "kept"):
            answered += 1
            continue
        for name, count in tariff.typical_tokens(request.question).items():
            usage[name] += count
        images += tariff.image_tokens(request.question)
        worst += tariff.worst(request.question, settings.max_output_tokens, discounted=spec.batches)
    dollars, most = tariff.cost(usage) / NANODOLLARS, worst / NANODOLLARS
    tokens = (usage["input_tokens"], images, usage["output_tokens"])
    return Bill(spec.spec, len(seen), answered, *tokens, dollars, most, tariff.source)


def _requests(settings: JudgeSettings, run: RunFolder, sample: JudgedSample, endpoint: Any) -> Iterator[Request]:
    items = [item for shard in run.missing() for item in range(shard.first, shard.stop)]
    for first in range(0, len(items), BILLED_TOGETHER):
        asked = sample.asked(items[first : first + BILLED_TOGETHER])
        for one in sorted(asked, key=lambda one: sample.places[one.item].image_id):  # each image is opened once
            if one.words:
                image, place = sample.image_of(one.item), sample.places[one.item]
                question = ask(image, place, one.words, settings.question)
                for repeat in range(settings.repeats):
                    yield Request(endpoint.key(question, repeat), question, repeat)
