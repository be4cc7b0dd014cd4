"""The settings of an intervene run, as in its flags and in run.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from jobs.base import recorded_settings, require_cover, require_positive, require_seed
from lenscore.interventions.names import (
    ERASE,
    KNOCKOUT_FROM,
    PLACES,
    SUBSTITUTES,
    TARGETS,
    USUAL_TARGETS,
    WRITE,
)
from lenscore.models.flag_types import Dtype
from lenscore.readings.words import distinct_words
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder

_DOSES = "0,0.5,1,2"
_ADDED_LATER: dict[str, Any] = {"prompt": None, "erase": "", "write": "", "at": "", "doses": _DOSES}
_ADDED_LATER |= {"targets": ",".join(USUAL_TARGETS), "knockout": "none", "knockout_step": 1, "attention": 0}


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
    """Layers of the results where states are replaced: all (but the output of the last block), or numbers as in 1,2,-1
    (the input of the last block)."""
    lenses: str = "all"
    """Lenses of the results that compare states with vectors: all, or some of them, joined by commas."""
    substitutes: str = "all"
    """What replaces a state: all, none, or some of nearest, nearest-k, word, deviation, other-patch, other-deviation,
    random, mean-state, zero, unchanged, joined by commas."""
    prompt: str | None = None
    """The text behind the image; by default that of the results. (Where visual tokens see it, as in PaliGemma, their
    candidates are still those of the results.)"""
    nearest: int = 5
    """Candidates whose mean is nearest-k, at most those of the results; and contextual embeddings of a word whose mean
    is its direction."""
    erase: str = ""
    """Words to remove from states, one at a time, joined by commas."""
    write: str = ""
    """Words to add to states, one at a time, joined by commas."""
    at: str = ""
    """Where words are erased or written: said (patches that have the word among their candidates), truth (objects that
    --truth calls by the word), truth:WORD (objects that it calls WORD), sampled (those of --patches together), all, or
    a box LEFT,TOP,RIGHT,BOTTOM in pixels. By default said for --erase, sampled for --write."""
    doses: str = _DOSES
    """How much of a word is erased or written: 1 is all of it."""
    truth: str = ""
    """Where objects are, whose patches are then replaced together too: a file as --judge truth:FILE takes it, or
    shapes, for images of the shapes world."""
    cover: float = 0.5
    """The part of a patch (above 0, at most 1) that one object has to cover for the patch to be on it."""
    targets: str = ",".join(USUAL_TARGETS)
    """What is changed: some of patches, objects, surroundings (the patches around an object), border (those at the
    border of the image), sinks (outlying norms), background (as many patches of it as each of these four has, a
    control), all (visual tokens), joined by commas. Objects and surroundings need --truth."""
    knockout: str = "none"
    """Block attention to the targets in windows of so many layers: numbers, or all, joined by commas; none."""
    knockout_from: str = "answer,later"
    """From where attention is blocked: answer (where its tokens are predicted), later (all tokens outside of the
    target), or both, joined by a comma."""
    knockout_step: int = 1
    """Windows begin at every so many layers."""
    attention: int = 0
    """Images of which the attention from the answer to the patches is written, and drawn: the first ones."""
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

    @property
    def searches_store(self) -> bool:
        """See `jobs.base.SearchingSettings`."""
        return True  # if the results have a lens that does

    def __post_init__(self) -> None:
        """Raises InputError for invalid values."""
        require_positive(self, "patches", "images", "nearest", "max_new_tokens", "batch_tokens", "images_per_shard")
        require_positive(self, "knockout_step")
        if self.attention < 0:
            raise InputError(f"--attention: found {self.attention}, expected 0 or more")
        require_seed(self.seed)
        require_cover(self.cover)
        _ = self.substitute_names, self.target_names, self.knockout_sizes, self.knockout_sources
        _ = self.dose_values, self.box
        for name in ("objects", "surroundings"):
            if not self.truth and self.targets != ",".join(USUAL_TARGETS) and name in self.target_names:
                raise InputError(f"--targets {name}: expected --truth, which says where objects are")
        of_background = {"objects", "surroundings", "border", "sinks"}
        if "background" in self.target_names and not of_background & set(self.target_names):
            raise InputError(f"--targets background: expected also some of {', '.join(sorted(of_background))} with it")
        if self.at and not self.edited_words:
            raise InputError(f"--at {self.at}: is for --erase or --write; leave it out")
        if self.at.startswith("truth") and not self.truth:
            raise InputError(f"--at {self.at}: expected --truth with it")
        if not self.knockout_sizes and (self.knockout_step != 1 or len(self.knockout_sources) < len(KNOCKOUT_FROM)):
            raise InputError("--knockout-from and --knockout-step are for --knockout; leave them out")
        for name in ("layers", "lenses"):
            if getattr(self, name) != "all" and not (self.substitute_names or self.edited_words):
                raise InputError(
                    f"--{name} {getattr(self, name)}: is for substitutes and words; leave it out (attention is blocked "
                    "and read at all layers)"
                )
        if not (self.substitute_names or self.edited_words or self.knockout_sizes or self.attention):
            raise InputError(
                "--substitutes none: nothing is left to do; expected also --erase, --write, --knockout or --attention"
            )
        if self.dose_values != tuple(map(float, _DOSES.split(","))) and not self.edited_words:
            raise InputError(f"--doses {self.doses}: is for --erase or --write; leave it out")

    @property
    def substitute_names(self) -> tuple[str, ...]:
        """The substitutes, in the order of `SUBSTITUTES`. InputError for others."""
        if self.substitutes.strip() in ("all", "none"):
            return SUBSTITUTES if self.substitutes.strip() == "all" else ()
        return _some("--substitutes", self.substitutes, SUBSTITUTES, "all, none, or some of")

    @property
    def target_names(self) -> tuple[str, ...]:
        """What is changed, in the order of `TARGETS`. InputError for others."""
        return _some("--targets", self.targets, TARGETS, "some of")

    @property
    def knockout_sources(self) -> tuple[str, ...]:
        """From where attention is blocked, in the order of `KNOCKOUT_FROM`. InputError for others."""
        return _some("--knockout-from", self.knockout_from, KNOCKOUT_FROM, "some of")

    @property
    def knockout_sizes(self) -> tuple[str, ...]:
        """The sizes of windows, numbers or "all"; () without knockouts. InputError for others."""
        sizes = tuple(dict.fromkeys(size.strip() for size in self.knockout.split(",")))
        if sizes == ("none",):
            return ()
        for size in sizes:
            if size != "all" and not (size.isdecimal() and int(size) > 0):
                raise InputError(f"--knockout: found {size!r}, expected numbers of layers, or all, or none")
        return sizes

    @property
    def edited_words(self) -> dict[str, list[str]]:
        """The words to erase and to write, by `ERASE` and `WRITE`; only what was asked for. InputError for none."""
        asked = {ERASE: self.erase, WRITE: self.write}
        return {edit: _words_of(edit, words) for edit, words in asked.items() if words}

    @property
    def dose_values(self) -> tuple[float, ...]:
        """The doses, ascending. InputError unless they are numbers that differ."""
        try:
            values = sorted(map(float, self.doses.split(",")))
        except ValueError:
            values = []
        if not values or not all(map(math.isfinite, values)) or len(set(values)) < len(values):
            raise InputError(f"--doses: found {self.doses!r}, expected numbers that differ, as in 0,0.5,1,2")
        return tuple(values)

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The box of --at in pixels, if it is one. InputError for a place that is not known."""
        if self.at in ("", *PLACES) or self.at.removeprefix("truth:") not in (self.at, ""):
            return None
        try:
            left, top, right, bottom = map(float, self.at.split(","))
        except ValueError:
            raise InputError(
                f"--at: no {self.at!r}; expected one of {', '.join(PLACES)}, truth:WORD or a box"
            ) from None
        if not (left < right and top < bottom):
            raise InputError(f"--at {self.at}: expected LEFT,TOP,RIGHT,BOTTOM with LEFT < RIGHT and TOP < BOTTOM")
        return left, top, right, bottom

    def recorded(self) -> dict[str, Any]:
        """The configuration, as in run.json."""
        sources = ",".join(self.knockout_sources)
        later = _ADDED_LATER | {"knockout_from": sources if self.knockout == "none" else ""}
        return recorded_settings(
            self,
            later,
            substitutes=",".join(self.substitute_names) or "none",
            targets=",".join(self.target_names),
            knockout=",".join(self.knockout_sizes) or "none",
            knockout_from=sources,
            erase=",".join(self.edited_words.get(ERASE, [])),
            write=",".join(self.edited_words.get(WRITE, [])),
            doses=",".join(f"{dose:g}" for dose in self.dose_values),
        )

    def input_paths(self) -> Sequence[Path] | None:
        """The identity of the results, and the truth."""
        truth = Path(self.truth)
        runs = [self.results / name for name in ("run.json", "plan.json")]
        return [*runs, truth] if self.truth not in ("", "shapes") and truth.exists() else runs

    def require_files(self) -> None:
        """Raises InputError if the results or the truth are not there."""
        RunFolder.open(self.results, "analyze")
        if self.truth not in ("", "shapes") and not Path(self.truth).is_file():
            raise InputError(f"--truth {self.truth}: no such file; expected a truth file, or shapes")


def _words_of(edit: str, words: str) -> list[str]:
    try:
        return distinct_words(words.split(","))
    except InputError as error:
        raise InputError(f"--{edit} {words}: {error}") from None


def _some(flag: str, given: str, known: Sequence[str], expected: str) -> tuple[str, ...]:
    """Some names, joined by commas, in the order of those that are known. InputError for others."""
    asked = [name.strip() for name in given.split(",")]
    for name in asked:
        if name not in known:
            raise InputError(f"{flag}: no {name!r}; expected {expected} {', '.join(known)}")
    return tuple(name for name in known if name in asked)
