"""The worker of the judge stage: every judge of the panel judges the words of a shard's patches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from jobs.base import Progress, no_progress
from jobs.judge_money import ledger_folder, read_terms
from jobs.judge_settings import JudgeSettings
from jobs.judged_sample import JudgedItem, JudgedSample
from lenscore.judging.judges.judge_spec import UNKNOWN, Answer, AnsweringJudge, JudgeSpec, Request
from lenscore.judging.judges.shapes_truth import fitting_words
from lenscore.judging.questions import ask
from lenscore.judging.spending.budget_hold import BudgetHold
from storage_layouts.budget import Budget
from storage_layouts.errors import InputError
from storage_layouts.ledger import Ledger
from storage_layouts.runs import Receipt, RunFolder, Shard
from storage_layouts.verdicts import ASKED, UNKNOWN_PAYMENTS, Verdict, write_verdicts


class JudgeWorker:
    """Writes the verdicts of a shard of the sample: for every patch all layers, lenses, controls and judges."""

    def __init__(self, settings: JudgeSettings, run: RunFolder) -> None:
        self._settings, self._run = settings, run
        self._sample = JudgedSample(settings, run)
        self._session: JudgeSession | None = None

    def run(self, shard: Shard, progress: Progress = no_progress) -> Receipt:
        """Judge the patches [first, stop) of the sample and write one JSONL file."""
        asked = self._sample.asked(range(shard.first, shard.stop))
        by_judge = []
        for number, spec in enumerate(self._settings.specs):

            def report(share: float, doing: str = "", before: int = number) -> None:
                progress(int(shard.items * (before + share) / len(self._settings.specs)), doing)

            by_judge.append(self._judged(spec, asked, report))
        # Ordered by item, then by judge.
        verdicts = [
            verdict if distance is None else replace(verdict, edge_distance=distance)
            for about, of_item in zip(asked, zip(*by_judge, strict=True), strict=True)
            for distance in (self._sample.edge_distances[about.item],)
            for repeats in of_item
            for verdict in repeats
        ]
        name = f"verdicts/part-{shard.name}.jsonl"
        digest = write_verdicts(self._run.path / name, verdicts)
        return Receipt(shard.index, shard.items, {name: digest}, self._facts(verdicts))

    def _judged(
        self, spec: JudgeSpec, asked: Sequence[JudgedItem], progress: Callable[[float, str], None]
    ) -> list[list[Verdict]]:
        """The verdicts of one judge on each item, one per repeat."""
        if not spec.reads_scenes:
            self._session = self._session or JudgeSession(self._settings, self._run, self._sample)
            return list(self._session.judged(spec, asked, progress))
        fitting = [fitting_words(one.words, self._sample.right[one.item]) for one in asked]
        return [
            [self._sample.verdict(one, spec.spec, "yes" if words else "no", words)]
            for one, words in zip(asked, fitting, strict=True)
        ]

    def _facts(self, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """{} for the truth, which always answers; else outcomes by judge, and unknown payments."""
        if all(spec.reads_scenes for spec in self._settings.specs):
            return {}
        unknown = sorted({verdict.key for verdict in verdicts if verdict.usage.get("payment") == "unknown"})
        by_judge = {spec.spec: [one for one in verdicts if one.judge == spec.spec] for spec in self._settings.specs}
        return {
            "outcomes": {judge: dict(Counter(one.outcome for one in ones)) for judge, ones in by_judge.items()},
            ASKED: {judge: _asked(ones) for judge, ones in by_judge.items()},
            UNKNOWN_PAYMENTS: unknown,
        }


def _asked(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Number of questions to a judge, number of answers, and the most frequent reason for a missing answer."""
    asked = [one for one in verdicts if one.candidates]
    why = Counter(reason for one in asked if (reason := one.usage.get("error") or one.usage.get("note")))
    answered = sum(one.outcome in ("yes", "no") for one in asked)
    counts = {"things": len(asked), "answered": answered, "why": why.most_common(1)[0][0] if why else ""}
    unknown = sum(one.usage.get("payment") == "unknown" for one in asked)
    return counts | ({"unknown": unknown} if unknown else {})


class JudgeSession:
    """The judges of one worker, which share its ledger file and its budget."""

    def __init__(self, settings: JudgeSettings, run: RunFolder, sample: JudgedSample) -> None:
        self._settings, self._sample = settings, sample
        policy = read_terms(run)
        ledger = Ledger(ledger_folder(run.path, policy), run.run_id)
        budget = Budget(run.path / "budget")
        budget.refresh()
        if not budget.is_set:
            raise InputError(f"{run.path}: no limit was set for what the judge may spend; expected --max-cost DOLLARS")
        hold = BudgetHold(budget, ledger)
        hold.release()
        self._means = settings.max_output_tokens, policy, ledger, hold
        self._judges: dict[str, AnsweringJudge] = {}

    def judged(
        self, spec: JudgeSpec, asked: Sequence[JudgedItem], progress: Callable[[float, str], None]
    ) -> Iterator[list[Verdict]]:
        """Yields the verdicts of one judge on each item, one per repeat.

        Args:
            spec: the judge.
            asked: the items.
            progress: called with the share of answered questions, and a reason if all requests wait.

        """
        judge = self._judges.get(spec.spec) or self._judges.setdefault(spec.spec, spec.open(*self._means))
        requests = [
            [self._request(judge, one, repeat) for repeat in range(self._settings.repeats)] if one.words else []
            for one in asked
        ]
        every = [request for repeated in requests for request in repeated]
        answers = judge.answers(every, lambda answered, doing: progress(answered / max(1, len(every)), doing))
        for one, repeated in zip(asked, requests, strict=True):
            if repeated:
                yield [self._verdict(spec, one, request, answers[request.key]) for request in repeated]
            else:  # there are no words to ask about, so none fits
                yield [self._sample.verdict(one, spec.spec, "no", ())]

    def _verdict(self, spec: JudgeSpec, one: JudgedItem, request: Request, answer: Answer) -> Verdict:
        outcome, fitting, usage = answer.outcome(one.words)
        if answer.error == UNKNOWN:
            usage["payment"] = "unknown"
        more: dict[str, Any] = {"reply": answer.text, "usage": usage, "key": request.key, "repeat": request.repeat}
        return self._sample.verdict(one, spec.spec, outcome, fitting, **more)

    def _request(self, judge: AnsweringJudge, one: JudgedItem, repeat: int) -> Request:
        image, place = self._sample.image_of(one.item), self._sample.places[one.item]
        return judge.request(ask(image, place, one.words, self._settings.question), repeat)
