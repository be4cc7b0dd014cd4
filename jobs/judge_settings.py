"""The settings of a judge run, as in its flags and in run.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jobs.base import require_positive, require_seed
from lenscore.judging.judges import read_specs
from lenscore.judging.judges.judge_spec import JudgeSpec
from lenscore.judging.judges.services import ServiceSpec
from lenscore.judging.judges.shapes_truth import SMALLEST_SHARE
from lenscore.judging.judges.truth_file import ObjectsSpec
from lenscore.judging.questions import QuestionSettings
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.errors import InputError


@dataclass(frozen=True)
class JudgeSettings:
    """The judges, the sample of patches, the question, and the limits of the requests."""

    results: Path
    """The analyze run with the words to judge."""
    out: Path
    """The run folder to write."""
    judge: str = "truth"
    """openai:MODEL, openai-batch:MODEL, http://host:port/v1#MODEL, replay:FILE, or for the shapes world truth,
    truth:ASPECT[+ASPECT] with noun, colour, texture, size, and truth:background. truth:FILE knows objects of your
    own images: a table of boxes or masks with words, or the JSON of COCO, LVIS or Visual Genome. Several make a
    panel."""
    patches: int = 100
    """Number of judged patches, distributed evenly over the images."""
    top_k: int | None = None
    """Number of each lens's words to judge; by default all in the results."""
    seed: int = 0
    """Seed of the sample and the controls."""
    items_per_shard: int = 256
    """Patches per shard, the unit of work and of resume."""
    images: int | None = None
    """Maximal number of images; by default all."""
    per_image: int | None = None
    """Maximal number of patches of each image; by default no limit."""
    cover: float = SMALLEST_SHARE
    """Of truth:FILE: the part of a patch (above 0, at most 1) that one object has to cover."""
    norm_cut: float | None = None
    """Leave out visual tokens whose norm is this many robust standard deviations from the median (sinks, registers)."""
    repeats: int = 1
    """How often each judge gets the same question, to measure its self-agreement; rates use the first replies."""
    max_output_tokens: int = 4096
    """Maximal length of a reply, including its reasoning."""
    question: QuestionSettings = field(default_factory=QuestionSettings)
    policy: RequestPolicy = field(default_factory=RequestPolicy)

    def __post_init__(self) -> None:
        """Raises InputError for invalid values."""
        specs = self.specs
        require_positive(self, "patches", "items_per_shard", "images", "per_image", "repeats", "max_output_tokens")
        require_seed(self.seed)
        if self.norm_cut is not None and not self.norm_cut > 0:
            raise InputError(f"--norm-cut: found {self.norm_cut}, expected a number above 0")
        if not 0 < self.cover <= 1:
            raise InputError(f"--cover: found {self.cover}, expected above 0 and at most 1")
        if self.cover != SMALLEST_SHARE and not any(isinstance(spec, ObjectsSpec) for spec in specs):
            raise InputError(f"--cover {self.cover:g}: only for truth:FILE, found --judge {self.judge}")
        tiers = [spec.tier(self.policy) for spec in specs if isinstance(spec, ServiceSpec)]
        if self.policy.service_tier == "flex" and "flex" not in tiers:
            raise InputError(f"--service-tier flex: only for openai:MODEL, found --judge {self.judge}")
        if self.repeats > 1 and not self.asks:
            raise InputError(f"--repeats {self.repeats}: the truth always answers the same; expected another judge")

    @property
    def specs(self) -> tuple[JudgeSpec, ...]:
        """The judges."""
        return read_specs(self.judge)

    @property
    def asks(self) -> bool:
        """Whether a judge answers questions with pictures, instead of reading the description of a scene."""
        return not all(spec.reads_scenes for spec in self.specs)
