"""The judge's worker: the words of a shard's patches, put to every judge of the panel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.base import Progress, untold
from jobs.judge_settings import JudgeSettings
from jobs.judged_sample import Asked, JudgedSample, verdict_of
from lenscore.judging.judges import JudgeSpec
from lenscore.judging.truth import fitting_words
from storage_layouts.runs import Receipt, RunFolder, Shard
from storage_layouts.verdicts import UNKNOWN_PAYMENTS, Verdict, write_verdicts

if TYPE_CHECKING:
    from jobs.judge_asking import Answering


class JudgeWorker:
    """Writes the verdicts of a shard of the sample: for every patch all layers, lenses, controls and judges."""

    def __init__(self, settings: JudgeSettings, run: RunFolder) -> None:
        self._settings, self._run = settings, run
        self._sample = JudgedSample(settings, run)
        self._answering: Answering | None = None

    def run(self, shard: Shard, progress: Progress = untold) -> Receipt:
        """Judge the patches [first, stop) of the sample and write one JSONL file."""
        asked = self._sample.asked(shard)
        by_judge = [self._judged(spec, asked) for spec in self._settings.specs]
        # What was asked about one thing stands together.
        verdicts = [verdict for one in zip(*by_judge, strict=True) for said in one for verdict in said]
        name = f"verdicts/part-{shard.name}.jsonl"
        digest = write_verdicts(self._run.path / name, verdicts)
        return Receipt(shard.index, shard.items, {name: digest}, self._facts(verdicts))

    def _judged(self, spec: JudgeSpec, asked: Sequence[Asked]) -> list[list[Verdict]]:
        """For each thing that is asked, what one judge says, first and repeated replies."""
        if spec.kind != "truth":
            from jobs.judge_asking import Answering  # with the network's packages, which the truth does not need

            if self._answering is None:
                self._answering = Answering(self._settings, self._run, self._sample)
            return list(self._answering.judged(spec, asked))
        fitting = [fitting_words(one.words, self._sample.right[one.item]) for one in asked]
        return [
            [verdict_of(one, self._sample.places[one.item], spec.spec, "yes" if words else "no", words)]
            for one, words in zip(asked, fitting, strict=True)
        ]

    def _facts(self, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """Nothing for the truth, which always answers; else outcomes by judge, and payments that are unknown."""
        if all(spec.kind == "truth" for spec in self._settings.specs):
            return {}
        counts: dict[str, Counter[str]] = {}
        for verdict in verdicts:
            counts.setdefault(verdict.judge, Counter())[verdict.outcome] += 1
        unknown = sorted({verdict.key for verdict in verdicts if verdict.usage.get("payment") == "unknown"})
        return {"outcomes": {judge: dict(count) for judge, count in counts.items()}, UNKNOWN_PAYMENTS: unknown}
