"""The judge's worker: the words of a shard's patches, put to every judge of the panel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jobs.base import Progress, untold
from jobs.judge_settings import JudgeSettings
from jobs.judged_sample import JudgedItem, JudgedSample, verdict_of
from lenscore.judging.judge_spec import JudgeSpec
from lenscore.judging.truth_judge import fitting_words
from storage_layouts.runs import Receipt, RunFolder, Shard
from storage_layouts.verdicts import ASKED, UNKNOWN_PAYMENTS, Verdict, write_verdicts

if TYPE_CHECKING:
    from jobs.judge_asking import JudgeSession


class JudgeWorker:
    """Writes the verdicts of a shard of the sample: for every patch all layers, lenses, controls and judges."""

    def __init__(self, settings: JudgeSettings, run: RunFolder) -> None:
        self._settings, self._run = settings, run
        self._sample = JudgedSample(settings, run)
        self._answering: JudgeSession | None = None

    def run(self, shard: Shard, progress: Progress = untold) -> Receipt:
        """Judge the patches [first, stop) of the sample and write one JSONL file."""
        asked = self._sample.asked(shard)
        by_judge = []
        for number, spec in enumerate(self._settings.specs):

            def told(share: float, doing: str = "", before: int = number) -> None:
                progress(int(shard.items * (before + share) / len(self._settings.specs)), doing)

            by_judge.append(self._judged(spec, asked, told))
        # What was asked about one thing stands together.
        verdicts = [
            verdict if distance is None else replace(verdict, edge_distance=distance)
            for about, one in zip(asked, zip(*by_judge, strict=True), strict=True)
            for distance in (self._sample.edge_distances[about.item],)
            for said in one
            for verdict in said
        ]
        name = f"verdicts/part-{shard.name}.jsonl"
        digest = write_verdicts(self._run.path / name, verdicts)
        return Receipt(shard.index, shard.items, {name: digest}, self._facts(verdicts))

    def _judged(
        self, spec: JudgeSpec, asked: Sequence[JudgedItem], progress: Callable[[float, str], None]
    ) -> list[list[Verdict]]:
        """For each thing that is asked, what one judge says, first and repeated replies."""
        if not spec.reads_scenes:
            from jobs.judge_asking import JudgeSession  # with the network's packages, which the truth does not need

            if self._answering is None:
                self._answering = JudgeSession(self._settings, self._run, self._sample)
            return list(self._answering.judged(spec, asked, progress))
        fitting = [fitting_words(one.words, self._sample.right[one.item]) for one in asked]
        return [
            [verdict_of(one, self._sample.places[one.item], spec.spec, "yes" if words else "no", words)]
            for one, words in zip(asked, fitting, strict=True)
        ]

    def _facts(self, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """Nothing for the truth, which always answers; else outcomes by judge, and payments that are unknown."""
        if all(spec.reads_scenes for spec in self._settings.specs):
            return {}
        unknown = sorted({verdict.key for verdict in verdicts if verdict.usage.get("payment") == "unknown"})
        by_judge = {spec.spec: [one for one in verdicts if one.judge == spec.spec] for spec in self._settings.specs}
        return {
            "outcomes": {judge: dict(Counter(one.outcome for one in said)) for judge, said in by_judge.items()},
            ASKED: {judge: _asked(said) for judge, said in by_judge.items()},
            UNKNOWN_PAYMENTS: unknown,
        }


def _asked(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """How many things a judge was asked, how many of them it answered, and why most often there is no answer."""
    asked = [one for one in verdicts if one.candidates]
    why = Counter(reason for one in asked if (reason := one.usage.get("error") or one.usage.get("note")))
    answered = sum(one.outcome in ("yes", "no") for one in asked)
    told = {"things": len(asked), "answered": answered, "why": why.most_common(1)[0][0] if why else ""}
    unknown = sum(one.usage.get("payment") == "unknown" for one in asked)
    return told | ({"unknown": unknown} if unknown else {})
