"""The judge stage: which words of each lens fit their patch, on a sample of the patches of an analyze run.

Controls are judged on the same patches in the same way: the words of the same lens at the same layer for a patch of
another image and, only for the truth, random words. Judges that are asked over the network, or replayed, get the first
control on a tenth of the sample.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.base import command_line
from jobs.judge_money import Bill, bills, keep_terms, require_terms
from jobs.judge_settings import JudgeSettings
from jobs.judge_worker import JudgeWorker
from jobs.judged_sample import SAMPLE, results_of
from lenscore.judging.candidates import CandidateWords
from lenscore.judging.judges.services import ServiceSpec
from lenscore.judging.judges.truth_file import ObjectsSpec
from lenscore.judging.norm_outliers import outlying_patches
from lenscore.judging.patches import (
    SMALLEST_SHARE,
    ImagePatches,
    PatchRef,
    partners,
    patch_rank,
    readable_images,
    sample_patches,
)
from lenscore.judging.patches import whole_patches as patches_without_padding
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.errors import InputError
from storage_layouts.files import write_atomic
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import UNKNOWN_PAYMENTS, unknown_payments

CONTROL_SHARE = 0.1
"""Part of the sample on which a judge other than the truth gets the control."""


@dataclass(frozen=True)
class JudgeJob(JudgeSettings):
    """Ask a judge which words of an analyze run fit their patches."""

    def __post_init__(self) -> None:
        """Raises InputError for invalid values, and for settings that no judge of this run uses."""
        super().__post_init__()
        specs = self.specs
        if self.cover != SMALLEST_SHARE and not any(isinstance(spec, ObjectsSpec) for spec in specs):
            raise InputError(f"--cover {self.cover:g}: only for truth:FILE, found --judge {self.judge}")
        tiers = [spec.tier(self.policy) for spec in specs if isinstance(spec, ServiceSpec)]
        if self.policy.service_tier == "flex" and "flex" not in tiers:
            raise InputError(f"--service-tier flex: only for openai:MODEL, found --judge {self.judge}")
        if self.repeats > 1 and not self.asks:
            raise InputError(f"--repeats {self.repeats}: the truth always answers the same; expected another judge")

    @property
    def upstream(self) -> tuple[Path, ...]:
        """The analyze run."""
        return (self.results,)

    def open_run(self) -> RunFolder:
        """Create the judge's run folder or resume it, with the terms of this command."""
        results = LensResults.open(self.results, allow_incomplete=True)
        if self.top_k is not None and not 1 <= self.top_k <= results.top_k:
            raise InputError(f"--top-k: found {self.top_k}, expected 1 to {results.top_k}, as {self.results} holds")
        path = str(Path(self.results).resolve())
        inputs: dict[str, Any] = {"results": {"path": path, "run_id": results.run.run_id}}
        if self.asks:
            inputs["prompt"] = self.question.template.name
        for spec in self.specs:
            inputs |= spec.inputs
        config = self._config() | {"results": path}
        return RunFolder.create(self.out, self.stage, config, inputs, command_line(self, config), self._apply_terms)

    def _apply_terms(self, run: RunFolder) -> None:
        """Write the terms of this command for the workers."""
        if self.asks:
            keep_terms(self, run)
            _reopen_shards(run, self.policy)

    def check_terms(self) -> None:
        """Raises InputError if a judge that costs money has no limit, no price or no key."""
        if self.asks:
            require_terms(self)

    def plan(self, run: RunFolder, progress: Callable[[str], None]) -> None:
        """Choose the patches, their partners and, for the truth, their right words, unless the run has a plan."""
        if run.plan is not None:
            return
        results = results_of(self, run)
        progress("choosing patches")
        images = {image.image_id: image for image in readable_images(results.images(), results.geometry())}
        truth = next((spec.truth(images.values(), self.cover) for spec in self.specs if spec.reads_scenes), None)
        outlying: frozenset[tuple[int, int, int, int]] = frozenset()
        if self.norm_cut is not None:
            # Whether the output of the last block was analysed must not change the sample.
            places = [results.layers.index(layer) for layer in results.mean_layers]
            outlying = outlying_patches(images.values(), results.norms(), self.norm_cut, places)

        def qualifying(image: ImagePatches) -> list[PatchRef]:
            places = patches_without_padding(image) if self.asks else list(image.places)
            if truth:
                known = {place.key for place in truth.qualifying(image)}
                places = [place for place in places if place.key in known]
            return [place for place in places if place.key not in outlying]

        sample = sample_patches(images.values(), self.patches, self.seed, qualifying, self.images, self.per_image)
        if not sample:
            raise InputError(f"{self.results}: no patch qualifies for the judge {self.judge}")
        by_image = sorted(sample, key=lambda place: place.key)  # so that each is opened once
        known = {place.key: truth.known(images[place.image_id], place) for place in by_image} if truth else {}
        progress("collecting the vocabulary for random words")
        described = {
            "patches": [asdict(place) | known.get(place.key, {}) for place in sample],
            "partners": [other.key if other else None for other in self._partners(sample)],
            "vocabulary": [] if self.asks else CandidateWords(results).vocabulary(),
        }
        facts: dict[str, Any] = {"asked": self.patches, "images": len({place.image_id for place in sample})}
        if truth:
            facts |= truth.facts()
        if any(run.inputs[name] != value for spec in self.specs for name, value in spec.inputs.items()):
            raise InputError(f"--judge {self.judge}: changed since the command began; repeat the command")
        run.settle()
        digest = write_atomic(run.path / SAMPLE, json.dumps(described, ensure_ascii=False, indent=0).encode())
        if self.norm_cut is not None:
            facts["norm_outliers"] = len(outlying)
        run.write_plan(len(sample), self.items_per_shard, {SAMPLE: digest}, facts)

    def open_worker(self, run: RunFolder, device: str) -> JudgeWorker:
        """Open the results; no judge needs a device."""
        return JudgeWorker(self, run)

    def bill(self, run: RunFolder) -> list[Bill]:
        """Costs of the missing shards of a planned run, for each judge that is asked over the network."""
        return bills(self, run) if self.asks else []

    def _config(self) -> dict[str, Any]:
        """The configuration for run.json, without newer settings that are not used, so that old runs stay valid."""
        later = ("images", "per_image", "norm_cut", "cover", "repeats", "max_output_tokens", "question")
        config = {name: value for name, value in asdict(self).items() if name not in ("out", "policy", *later)}
        config |= {name: getattr(self, name) for name in later[:3] if getattr(self, name) is not None}
        if self.cover != SMALLEST_SHARE:
            config["cover"] = self.cover
        config["judge"] = ",".join(spec.resolved for spec in self.specs)
        if self.asks:
            question = asdict(self.question)
            question["prompt"] = str(self.question.prompt.resolve()) if self.question.prompt else None
            config |= {"repeats": self.repeats, "max_output_tokens": self.max_output_tokens, "question": question}
        return config

    def _partners(self, sample: Sequence[PatchRef]) -> list[PatchRef | None]:
        """For each patch the patch whose words are its control, or None if no control is judged."""
        others = partners(sample, self.seed)
        if not self.asks:
            return others
        order = sorted(range(len(sample)), key=lambda i: patch_rank(self.seed, sample[i]))
        chosen = set(order[: math.ceil(CONTROL_SHARE * len(sample))])
        return [other if i in chosen else None for i, other in enumerate(others)]


def _reopen_shards(run: RunFolder, policy: RequestPolicy) -> None:
    """Remove the receipts of shards with requests that the policy sends again; all other answers are in the ledger."""
    if run.plan is None or not (policy.resend_unknown or policy.ask_failed_again):
        return
    for receipt in list(run.receipts()):
        failed = any(
            outcomes.get("failed", 0) > unknown_payments(receipt.facts, judge)
            for judge, outcomes in receipt.facts.get("outcomes", {}).items()
        )
        unknown = receipt.facts.get(UNKNOWN_PAYMENTS)
        if (policy.resend_unknown and unknown) or (policy.ask_failed_again and failed):
            run.receipt_path(receipt.shard).unlink(missing_ok=True)
