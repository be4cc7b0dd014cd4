"""What defines the work of a judge: its settings, as flags and as run.json hold them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jobs.base import require_positive, require_seed
from lenscore.judging.judge_spec import JudgeSpec, ServiceSpec
from lenscore.judging.judges import read_specs
from lenscore.judging.questions import QuestionSettings
from lenscore.judging.request_policy import RequestPolicy
from lenscore.judging.truth_file_judge import ObjectsSpec
from lenscore.judging.truth_judge import SMALLEST_SHARE
from storage_layouts.errors import InputError


@dataclass(frozen=True)
class JudgeSettings:
    """Who is asked what about which patches, and on which terms."""

    results: Path
    """The analyze run whose words are judged."""
    out: Path
    """The run folder to write."""
    judge: str = "truth"
    """openai:MODEL, openai-batch:MODEL, http://host:port/v1#MODEL, replay:FILE, or for the shapes world truth,
    truth:ASPECT[+ASPECT] with noun, colour, texture, size, and truth:background. truth:FILE knows objects of your
    own images: a table of boxes or masks with words, or the JSON of COCO, LVIS or Visual Genome. Several make a
    panel."""
    patches: int = 100
    """Judged patches in all, dealt evenly over the images."""
    top_k: int | None = None
    """How many of a lens's words count; by default all that the results hold."""
    seed: int = 0
    """Decides the sample and the controls."""
    items_per_shard: int = 256
    """Patches a shard, the unit of work and of resume."""
    images: int | None = None
    """At most so many images; by default all."""
    per_image: int | None = None
    """At most so many patches of each image; by default no limit."""
    cover: float = SMALLEST_SHARE
    """Of truth:FILE: the part of a patch (above 0, at most 1) that one object has to cover."""
    norm_cut: float | None = None
    """Leave out visual tokens whose norm is so many robust standard deviations from usual (sinks, registers)."""
    repeats: int = 1
    """How often each judge is asked the same, to see how far it agrees with itself; rates use the first replies."""
    max_output_tokens: int = 4096
    """Where a reply is cut off, its reasoning included."""
    question: QuestionSettings = field(default_factory=QuestionSettings)
    policy: RequestPolicy = field(default_factory=RequestPolicy)

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
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
            raise InputError(f"--repeats {self.repeats}: the truth does not change; expected a judge that may")

    @property
    def specs(self) -> tuple[JudgeSpec, ...]:
        """The judges."""
        return read_specs(self.judge)

    @property
    def asks(self) -> bool:
        """Whether questions with pictures are asked, rather than a scene's description read."""
        return not all(spec.reads_scenes for spec in self.specs)
