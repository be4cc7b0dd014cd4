"""The settings of an intervene run, as in its flags and in run.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from jobs.base import recorded_settings, require_cover, require_positive, require_seed
from lenscore.interventions.names import SUBSTITUTES
from lenscore.models.flag_types import Dtype
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder


@dataclass(frozen=True)
class InterveneSettings:
    """Replace the states of visual tokens by what lenses say, and measure what it does to the model's answer."""

    results: Path
    """The analyze run, whose model, images, lenses and candidates are used."""
    out: Path
    """The run folder to write."""
    patches: int = 8
    """Patches of each image that are replaced one at a time."""
    images: int | None = None
    """Maximal number of images; by default all."""
    layers: str = "all"
    """Layers of the results: all (but the output of the last block), or numbers as in 1,2,-1."""
    lenses: str = "all"
    """Lenses of the results that compare states with vectors: all, or some of them, joined by commas."""
    substitutes: str = "all"
    """What replaces a state: all, or some of nearest, nearest-k, word, other-patch, random, mean-state, zero,
    unchanged, joined by commas."""
    nearest: int = 5
    """Candidates whose mean is nearest-k; at most those of the results."""
    truth: str = ""
    """Where objects are, whose patches are then replaced together too: a file as --judge truth:FILE takes it, or
    shapes, for images of the shapes world."""
    cover: float = 0.5
    """The part of a patch (above 0, at most 1) that one object has to cover for the patch to be on it."""
    answer: Literal["generated", "caption"] = "generated"
    """The answer whose tokens are predicted: the model's own, or the caption of each image in the results."""
    max_new_tokens: int = 16
    """Tokens of the answer at most."""
    dtype: Dtype = "float32"
    """Dtype of the weights; in 16 bits rounding may exceed small effects (unchanged shows it)."""
    batch_tokens: int = 4096
    """Positions that run together at most."""
    images_per_shard: int = 4
    """Images per shard, the unit of work."""
    seed: int = 0
    """Seed of the sample of patches and the random controls."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""

    stage: ClassVar[str] = "intervene"
    needs_device: ClassVar[bool] = True
    plans_on: ClassVar[Literal["planned", "complete"]] = "complete"
    shard_size: ClassVar[str] = "images_per_shard"

    def __post_init__(self) -> None:
        """Raises InputError for invalid values."""
        require_positive(self, "patches", "images", "nearest", "max_new_tokens", "batch_tokens", "images_per_shard")
        require_seed(self.seed)
        require_cover(self.cover)
        _ = self.substitute_names

    @property
    def substitute_names(self) -> tuple[str, ...]:
        """The substitutes, in the order of `SUBSTITUTES`. InputError for others."""
        asked = [name.strip() for name in self.substitutes.split(",")]
        if asked == ["all"]:
            return SUBSTITUTES
        for name in asked:
            if name not in SUBSTITUTES:
                raise InputError(f"--substitutes: no {name!r}; expected all, or some of {', '.join(SUBSTITUTES)}")
        return tuple(name for name in SUBSTITUTES if name in asked)

    def recorded(self) -> dict[str, Any]:
        """The configuration, as in run.json."""
        return recorded_settings(self, {}, substitutes=",".join(self.substitute_names))

    def input_paths(self) -> Sequence[Path] | None:
        """The identity of the results, and the truth."""
        truth = Path(self.truth)
        runs = [self.results / name for name in ("run.json", "plan.json")]
        return [*runs, truth] if self.truth and truth.exists() else runs

    def require_files(self) -> None:
        """Raises InputError if the results or the truth are not there."""
        RunFolder.open(self.results, "analyze")
        if self.truth not in ("", "shapes") and not Path(self.truth).exists():
            raise InputError(f"--truth {self.truth}: no such file; expected a truth file, or shapes")
