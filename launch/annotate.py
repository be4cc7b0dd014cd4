"""`lens annotate --results RUN --out DIR`: a page on which people answer the questions of a judge."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.base import require_positive, require_seed
from launch.exit_codes import exit_code
from launch.flags import parse
from launch.terminal import print_out, shown
from lenscore.human_study.annotation_page import judged_cells, sampled_cells, write_study
from lenscore.human_study.judge_replies import judged_results
from lenscore.judging.patches import readable_images, sample_patches, whole_patches
from lenscore.judging.questions import QuestionSettings
from storage_layouts.counts import counted
from storage_layouts.errors import InputError
from storage_layouts.files import require_place
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder


@dataclass(frozen=True)
class AnnotateCommand:
    """Write a page on which a person selects the words that fit; it needs no server and exports JSON."""

    results: Path
    """An analyze run, whose patches are sampled as for a judge with this seed; or a judge run: its own questions."""
    out: Path
    """A new folder for the page, data.json and the answers."""
    patches: int = 60
    """Questions: patches, dealt evenly over the images, each with one lens and layer."""
    lenses: str = "all"
    """Lenses to draw from: all of the run, or names as in latent,logit."""
    layers: str = "all"
    """Layers to draw from: all of the run but the output of the last block, or numbers as in 0,8."""
    top_k: int | None = None
    """Words a question; by default all that the results hold (of a judge run, always those that it judged)."""
    seed: int = 0
    """Decides the sample, and the lens and layer of each patch."""
    describe: Literal["word", "phrase"] = "word"
    """Words of LatentLens alone, or their sentences with the word in brackets (of a judge run, as it judged them)."""
    images: int | None = None
    """At most so many images; by default all."""
    per_image: int | None = None
    """At most so many patches of each image; by default no limit."""
    box_share: float | None = None
    """Side of the red box, as a share of the longer side of the image; by default 3/24, or as the judge saw it."""

    def __post_init__(self) -> None:
        require_positive(self, "patches", "top_k", "images", "per_image")
        require_seed(self.seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""

    def run() -> int:
        return annotate(parse(AnnotateCommand, argv, "lens annotate"))

    return exit_code(run)


def annotate(command: AnnotateCommand) -> int:
    """Write the page and print its path."""
    require_place(command.out)
    run = RunFolder.open(command.results)
    seen = run.config.get("question") or {}  # of a judge run whose judge sees images
    asked = command.box_share
    box_share = seen.get("box_share", QuestionSettings.box_share) if asked is None else asked
    settings = QuestionSettings(describe=command.describe, box_share=box_share, crop=seen.get("crop", 1.0))
    if run.stage == "judge":
        for flag, given in (("top-k", command.top_k), ("images", command.images), ("per-image", command.per_image)):
            if given is not None:
                raise InputError(f"--{flag} {given}: {run.path} is a judge run, whose patches and words are settled")
        results = judged_results(run)
        cells = judged_cells(run, results, command.patches, command.seed, *_asked(command, results))
    else:
        results = LensResults.open(command.results)
        k = results.top_k if command.top_k is None else command.top_k
        if k > results.top_k:
            raise InputError(f"--top-k: found {k}, expected 1 to {results.top_k}, as {results.path} holds")
        images = readable_images(results.images(), results.geometry())
        limits = command.images, command.per_image
        sample = sample_patches(images, command.patches, command.seed, whole_patches, *limits)
        if not sample:
            raise InputError(f"{results.path}: no image has a patch of known place outside of padding")
        cells = sampled_cells(results, sample, command.seed, *_asked(command, results), command.describe, k)
    files = write_study(command.out, results, cells, settings)
    print_out(f"page: {shown(files.page)} ({counted(files.questions, 'question')})")
    if files.wordless:
        print_out(f"left out: {counted(files.wordless, 'patch')}, of which the drawn lens says nothing but blanks")
    out = shown(command.out)
    print_out(f"answers: put the exported files into {out / 'results'}, then lens agreement --human {out}")
    return 0


def _asked(command: AnnotateCommand, results: LensResults) -> tuple[list[str], list[int]]:
    """Returns the lenses and layers to draw from. Raises InputError for one that the run does not have."""
    lenses = list(results.lenses) if command.lenses == "all" else command.lenses.split(",")
    layers = [str(layer) for layer in results.mean_layers] if command.layers == "all" else command.layers.split(",")
    for flag, asked, known in (("--lenses", lenses, results.lenses), ("--layers", layers, results.layers)):
        missing = [one for one in asked if one not in map(str, known)]
        if missing:
            raise InputError(
                f"{flag}: {results.path} has no {missing[0]!r}; expected some of {', '.join(map(str, known))}"
            )
    # Sorted, so that the sample does not depend on the order in the flags.
    return sorted(set(lenses)), sorted({int(layer) for layer in layers})


if __name__ == "__main__":
    sys.exit(main())
