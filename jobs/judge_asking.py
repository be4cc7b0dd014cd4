"""Puts what is to be judged to the judges that answer questions, and makes verdicts of their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jobs.judge_money import ledger_folder, read_terms
from jobs.judge_settings import JudgeSettings
from jobs.judged_sample import JudgedItem, JudgedSample, verdict_of
from lenscore.judging.judges.judge import UNKNOWN, Answer, AnsweringJudge, JudgeSpec, Request
from lenscore.judging.questions import ask
from lenscore.judging.spending.budget_hold import BudgetHold
from storage_layouts.budget import Budget
from storage_layouts.errors import InputError
from storage_layouts.ledger import Ledger
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import Verdict


class JudgeSession:
    """The judges of one worker, who share its ledger file and its money."""

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
        """For each thing that is asked, the verdicts of one judge, first and repeated replies.

        Args:
            spec: the judge.
            asked: the things.
            progress: takes the share of the questions that are answered, and why everybody waits, if so.

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
            else:  # no words, no question: they do not fit
                yield [verdict_of(one, self._sample.places[one.item], spec.spec, "no", ())]

    def _verdict(self, spec: JudgeSpec, one: JudgedItem, request: Request, answer: Answer) -> Verdict:
        outcome, fitting, usage = answer.outcome(one.words)
        if answer.error == UNKNOWN:
            usage["payment"] = "unknown"
        more: dict[str, Any] = {"reply": answer.text, "usage": usage, "key": request.key, "repeat": request.repeat}
        return verdict_of(one, self._sample.places[one.item], spec.spec, outcome, fitting, **more)

    def _request(self, judge: AnsweringJudge, one: JudgedItem, repeat: int) -> Request:
        image, place = self._sample.image_of(one.item), self._sample.places[one.item]
        return judge.request(ask(image, place, one.words, self._settings.question), repeat)
