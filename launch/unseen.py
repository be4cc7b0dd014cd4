"""`lens unseen --results RUN`: nouns of answers or captions that no patch says, which may be hallucinations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.base import require_seed
from launch.exit_codes import exit_code
from launch.flags import parse
from launch.progress import StageProgress
from launch.terminal import Terminal, print_out, shown, to_file_or_terminal
from storage_layouts.counts import counted
from storage_layouts.errors import InputError
from storage_layouts.files import read_json, require_place, write_atomic

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from lenscore.judging.patches import ImagePatches
    from lenscore.reports.sections import Plot
    from lenscore.unseen_nouns.answers import Answer
    from lenscore.unseen_nouns.scored_nouns import ScoredNouns
    from storage_layouts.results import LensResults


_CURVE = ("curve.png", "curve.svg", "curve.pdf", "curve.csv")
_OTHERS = ("detectors.csv", "reliability.csv", "calibration.json")
"""Beside nouns.csv, which every command writes."""


@dataclass(frozen=True)
class UnseenCommand:
    """Score the nouns that texts say of images: high where no patch says them, by any lens at any layer.

    Needs no model for runs of lens analyze: the candidates that they keep are looked through. With --truth the scores
    are calibrated, and measured as a detector of hallucinations beside others.
    """

    results: Path
    """An analyze run."""
    out: Path
    """Folder for nouns.csv, and with --truth detectors.csv, curve.csv (png, svg, pdf), reliability.csv and
    calibration.json; earlier ones are replaced."""
    answers: str = "auto"
    """The texts: generated (the run's own answers, of lens analyze --tokens all), captions (of the images), or a table
    of images and texts (csv, tsv, json, jsonl, parquet); auto takes the answers if the run has some, or else
    captions."""
    nouns: str = "common"
    """Which words count: common (a small list of English nouns), shapes or real (the worlds of lens demo), or a file
    with a noun in each line and its synonyms after commas, such as that of CHAIR."""
    truth: str = ""
    """Which images have which nouns: a file as --judge truth:FILE takes it, or shapes, for images of the shapes
    world."""
    swapped: Literal["none", "random", "popular", "adversarial"] = "none"
    """With --truth, also score false nouns, as many as each image's texts say true ones, chosen as in POPE."""
    calibration: Path | None = None
    """The calibration.json of an earlier command, on other images of the same model."""
    lenses: str = ""
    """Lenses of the run, as in latent,logit; by default all."""
    exact: bool = False
    """Ask for every noun at every patch, as lens find does, instead of looking through the candidates; loads the
    model."""
    device: str | None = None
    """With --exact, where to compute: cpu, cuda, cuda:1; by default CUDA where there is one."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    seed: int = 0
    """Of the false nouns."""

    def __post_init__(self) -> None:
        """Raises InputError for flags that do not go together."""
        require_seed(self.seed)
        if self.swapped != "none" and not self.truth:
            raise InputError(f"--swapped {self.swapped}: needs --truth, which says what images do not have")
        if self.device is not None and not self.exact:
            raise InputError(f"--device {self.device}: needs --exact; without it no model is loaded")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return exit_code(lambda: unseen(parse(UnseenCommand, argv, "lens unseen")))


def unseen(command: UnseenCommand) -> int:
    """Score the nouns, write the tables, and print how well the scores find false nouns."""
    require_place(command.out)
    with StageProgress(Terminal(stderr=True), "unseen") as progress:
        progress.say(f"reading {command.results}")
        results = _results(command)
        scored, lines = _scored(command, results, progress)
        progress.say("measuring")
        files, table, plot, more = _measured(command, results, scored)
        stale = _stale(command, {*files, *(_CURVE if plot else ())})
        for path in stale:
            path.unlink()
        for name, data in files.items():
            write_atomic(command.out / name, data)
        drawn = _save(plot, command.out) if plot else []
    if table is not None:
        to_file_or_terminal(140).print(table)
    gone = [f"removed: {', '.join(path.name for path in stale)} of an earlier command"] if stale else []
    for line in [*lines, *more, *gone, *(f"{name}: {shown(command.out / name)}" for name in (*files, *drawn))]:
        print_out(line)
    return 0


def _stale(command: UnseenCommand, written: Container[str]) -> list[Path]:
    """Files of an earlier command that this one does not write again; the given calibration is none."""
    if not (command.out / "nouns.csv").is_file():
        return []
    given = command.calibration and command.calibration.resolve()
    old = [command.out / name for name in (*_OTHERS, *_CURVE) if name not in written]
    return [path for path in old if path.is_file() and path.resolve() != given]


def _save(plot: Plot, folder: Path) -> list[str]:
    """Write the figure and what it shows; returns the names of the files."""
    from lenscore.reports.parts.drawing import save_plot

    return [path.name for path in save_plot(plot, folder)]


def _results(command: UnseenCommand) -> LensResults:
    """The run, with the asked lenses. Raises InputError for one that it does not have."""
    from storage_layouts.results import LensResults

    results = LensResults.open(command.results)
    asked = [name for name in command.lenses.replace(" ", "").split(",") if name] or list(results.lenses)
    for name in asked:
        if name not in results.lenses:
            raise InputError(f"--lenses {name}: {results.path} has {', '.join(results.lenses)}")
    results.leave_out(*(name for name in results.lenses if name not in asked))
    return results


def _scored(command: UnseenCommand, results: LensResults, progress: StageProgress) -> tuple[ScoredNouns, list[str]]:
    """The said nouns with their evidence, and lines to print about what was read."""
    from lenscore.judging.patches import readable_images
    from lenscore.unseen_nouns.evidence import kept_evidence
    from lenscore.unseen_nouns.noun_lists import Nouns
    from lenscore.unseen_nouns.said_nouns import NounTruth, said_nouns, swapped_nouns
    from lenscore.unseen_nouns.scored_nouns import ScoredNouns
    from lenscore.word_maps.word_truth import SHAPES, WordTruth

    nouns = Nouns.of(command.nouns)
    images = {image.image_id: image for image in readable_images(results.images(), results.geometry(), False)}
    texts, lines = _texts(command, results, images)
    known = WordTruth.of(command.truth, list(images.values())) if command.truth else None
    count = counted(len(nouns.forms), "noun")
    if known and command.truth != SHAPES:
        nouns = nouns.with_compounds(part.words for parts in known.parts.values() for part in parts)
    truth = NounTruth(known, nouns) if known else None
    named = said_nouns((text for text in texts if text.image_id in images), nouns, truth)
    can_be_said: Callable[[str], bool] = (lambda noun: True) if command.exact else nouns.has_single_word
    said = [noun for noun in named if can_be_said(noun.noun)]
    if not said:
        rest = f" that has a name of a single word (no lens says {named[0].noun!r})" if named else ""
        raise InputError(f"{results.path}: no text says one of the {count} of --nouns{rest}")
    if len(said) < len(named):
        unsayable = sorted({noun.noun for noun in named if not can_be_said(noun.noun)})
        lines.append(
            f"left out: {counted(len(named) - len(said), 'noun')} without a name of a single word, which no lens says: "
            f"{', '.join(unsayable)}; give them synonyms"
        )
    if truth and command.swapped != "none":
        said += swapped_nouns(command.swapped, said, truth, images, command.seed, can_be_said)
    of_image: dict[int, list[str]] = {}
    for noun in said:
        of_image.setdefault(noun.image_id, []).append(noun.noun)
    of_image = {image_id: list(dict.fromkeys(mine)) for image_id, mine in of_image.items()}
    lines.append(f"nouns: {len(said):,} of {counted(len(of_image), 'image')}")
    lines += [f"truth: {note}" for note in known.notes] if known else []
    progress.say(lines[-1])
    if command.exact:
        from jobs.worker import settle_device
        from lenscore.unseen_nouns.asked_evidence import asked_evidence

        device, code = settle_device(command.device or "auto"), command.trust_remote_code
        found = dict(asked_evidence(results, nouns, of_image, images, device, code, progress.say))
    else:
        found = dict(kept_evidence(results, nouns, of_image))
    evidence = [found[noun.image_id][noun.noun] for noun in said]
    return ScoredNouns(said, evidence, images, results.lenses, results.layers, results.top_k), lines


def _texts(
    command: UnseenCommand, results: LensResults, images: Mapping[int, ImagePatches]
) -> tuple[list[Answer], list[str]]:
    """The texts, and lines to print about them. Raises InputError if there are none."""
    from lenscore.models.checkpoint import Checkpoint
    from lenscore.unseen_nouns.answers import answers_of_file, captions, model_answers

    asked, lines = command.answers, list[str]()
    if asked in ("auto", "generated") and results.has_texts:
        tokenizer = Checkpoint.of_run(results.run, command.trust_remote_code).tokenizer
        if texts := model_answers(results, tokenizer):
            return texts, [f"texts: {counted(len(texts), 'answer')} of the model"]
    if asked == "generated":
        raise InputError(f"--answers generated: {results.path} has none; lens analyze --tokens all keeps them")
    if asked in ("auto", "captions"):
        texts = captions(results)
        if not texts:
            raise InputError(
                f"{results.path}: has neither answers of the model (lens analyze --tokens all) nor captions; expected "
                "--answers FILE"
            )
        return texts, [f"texts: {counted(len(texts), 'caption')} of the images"]
    texts, others = answers_of_file(Path(asked), list(images.values()))
    lines.append(f"texts: {counted(len(texts), 'answer')} of {asked}")
    if others:
        lines.append(f"left out: {counted(others, 'answer')} about images that were not analysed")
    return texts, lines


def _measured(
    command: UnseenCommand, results: LensResults, scored: ScoredNouns
) -> tuple[dict[str, bytes], Table | None, Plot | None, list[str]]:
    """The files to write, the table to print, the figure to draw, and lines to print."""
    import numpy as np

    from lenscore.reports.parts.table_formats import csv_bytes
    from lenscore.unseen_nouns.calibration import FOLDS, Calibration
    from lenscore.unseen_nouns.curve_figure import curve_plot
    from lenscore.unseen_nouns.scored_nouns import curve_table, reliability_table

    of = _evidence_of(command, results)
    if command.calibration:
        calibration, fitted_on = Calibration.read(command.calibration, of, scored.features)
        scored = replace(scored, fitted_on=fitted_on)
        probabilities = np.where(scored.was_fitted_on, np.nan, calibration.probabilities(scored.strengths))
        lines = [f"probabilities: by {shown(command.calibration)}, of {counted(len(fitted_on), 'image')}"]
        if inside := len(fitted_on & set(scored.hashes.tolist())):
            lines.append(
                f"not measured and without probability: {counted(inside, 'image')} that the calibration was fitted on"
            )
    elif scored.can_be_calibrated:
        probabilities = scored.cross_validated(scored.strengths)
        lines = [f"probabilities: each by a calibration on the images of the other {FOLDS - 1} of {FOLDS} folds"]
    else:
        probabilities = np.full(len(scored.said), np.nan)
        lines = [
            "not calibrated: the score is 1 - the mean evidence of lenses and layers, no probability; --truth "
            "calibrates it, --calibration FILE takes a calibration of other images"
        ]
    files = {"nouns.csv": csv_bytes(scored.table(probabilities))}
    if not scored.known.any():
        return files, None, None, lines
    if not scored.can_be_calibrated:
        return files, None, None, [*lines, "not measured: the truth has all nouns, or none; --swapped adds false ones"]
    detectors = scored.detectors(probabilities)
    measured = scored.measured(detectors)
    files["detectors.csv"] = csv_bytes(measured)
    files["reliability.csv"] = csv_bytes(reliability_table(scored, detectors))
    if not command.calibration:
        files["calibration.json"] = scored.calibration().content(of, scored.hashes[scored.known].tolist())
    chance = float(scored.absent[scored.known].mean())
    return files, _printed(measured), curve_plot(curve_table(scored, detectors), results.lenses, chance), lines


def _evidence_of(command: UnseenCommand, results: LensResults) -> dict[str, object]:
    """What a calibration is of; it fits other runs with the same."""
    from lenscore.unseen_nouns.noun_lists import Nouns

    model = results.path / "model.json"
    weights = read_json(model).get("weights_hash") if model.is_file() else results.model
    inputs = results.run.inputs
    return {
        "weights": weights,
        "store": inputs.get("store", {}).get("run_id") if results.needs_store else None,
        "contextual_layers": results.run.require_plan().facts.get("contextual_layers"),
        "tuned": inputs.get("tuned", {}).get("id") if "tuned" in results.lenses else None,
        "ranks": "exact" if command.exact else f"of {results.top_k} candidates",
        "nouns": Nouns.of(command.nouns).hash,
    }


def _printed(measured: pd.DataFrame) -> Table:
    from rich.table import Table

    from lenscore.unseen_nouns.scored_nouns import MEASURES

    first = measured[measured["of"] == measured["of"].iloc[0]]
    table = Table(title=f"finding nouns that images do not have: {first['of'].iloc[0]}", title_justify="left")
    table.add_column("detector")
    for column in ("nouns", "AUROC (95 %)", "average precision (95 %)", "precision", "recall", "Brier"):
        table.add_column(column, justify="right")
    for line in first.to_dict("records"):
        table.add_row(line["detector"], f"{line['nouns']:,}", *(_interval(line, name) for name in MEASURES))
    absent, nouns = first["absent"].iloc[0], first["nouns"].iloc[0]
    table.caption = (
        f"{absent:,} of {counted(int(nouns), 'noun')} are not in the image. By chance AUROC is 0.5, average precision "
        f"{absent / nouns:.2f}. Precision and recall of calibrated probabilities from 0.5 on"
    )
    return table


def _interval(line: Mapping[Any, Any], name: str) -> str:
    value, low, high = (line[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value != value:
        return "–"
    return f"{value:.2f} ({low:.2f} to {high:.2f})" if low == low else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
