"""The settings of a judge run, as in its flags and in run.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from jobs.base import require_cover, require_positive, require_seed
from lenscore.judging.patches import SMALLEST_SHARE
from lenscore.judging.questions import QuestionSettings
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder

if TYPE_CHECKING:
    from lenscore.judging.judges.judge_spec import JudgeSpec


@dataclass(frozen=True)
class JudgeSettings:
    """Ask a judge which words of an analyze run fit their patches."""

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

    stage: ClassVar[str] = "judge"
    needs_device: ClassVar[bool] = False
    plans_on: ClassVar[Literal["planned", "complete"]] = "complete"
    shard_size: ClassVar[str] = "items_per_shard"

    def __post_init__(self) -> None:
        """Raises InputError for invalid values."""
        require_positive(self, "patches", "items_per_shard", "images", "per_image", "repeats", "max_output_tokens")
        require_seed(self.seed)
        if self.norm_cut is not None and not self.norm_cut > 0:
            raise InputError(f"--norm-cut: found {self.norm_cut}, expected a number above 0")
        require_cover(self.cover)

    def require_files(self) -> None:
        """Raises InputError if the results are not there."""
        RunFolder.open(self.results, "analyze")

    @property
    def specs(self) -> tuple[JudgeSpec, ...]:
        """The judges. InputError for an unknown or wrong one."""
        from lenscore.judging.judges import read_specs

        return read_specs(self.judge)

    @property
    def asks(self) -> bool:
        """Whether a judge answers questions with pictures, instead of reading the description of a scene."""
        return not all(spec.reads_scenes for spec in self.specs)
