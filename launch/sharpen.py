"""`lens sharpen --results RUN`: words that LatentLens found at patches, in new sentences, searched again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.base import require_cover, require_positive, require_seed
from launch.exit_codes import exit_code
from launch.flags import parse
from launch.progress import StageProgress
from launch.terminal import Terminal, print_out, shown
from storage_layouts.counts import counted
from storage_layouts.files import json_bytes, require_place, write_atomic

if TYPE_CHECKING:
    from lenscore.index.contextual_index import ContextualIndex
    from lenscore.judging.patches import ImagePatches, PatchRef
    from lenscore.models.loading import Vlm
    from lenscore.sharpening.inverted_index import InvertedIndex
    from lenscore.sharpening.new_sentences import SentenceSource, TemplateSource
    from lenscore.sharpening.sharpening_measures import Measured
    from storage_layouts.embeddings import EmbeddingStore
    from storage_layouts.results import LensResults


@dataclass(frozen=True)
class SharpenCommand:
    """Put words that LatentLens found at patches into new sentences, and search these too, for some rounds.

    Beside controls: as many sentences with words of other patches, with random words, and of a corpus at random. With
    --truth it measures whether the words become right more often, and the sentences more specific.
    """

    results: Path
    """An analyze run with LatentLens, whose model, images, prompt and layers are used."""
    out: Path
    """Folder for rounds.csv, differences.csv, patches.csv, sentences.csv, summary.txt, inputs.json, and for each
    source found-SOURCE.jsonl, a corpus of its sentences for lens extract; a folder of other settings is refused."""
    store: Path | None = None
    """The store to begin with, its folder or hf:REPO; by default that of the run."""
    corpus: tuple[str, ...] = ()
    """Files, folders or names, as for lens extract: for the source corpus, random-sentences and random-rows."""
    column: str | None = None
    """Text column of tables of the corpus; by default text, sentence, caption or phrase."""
    sources: str = ""
    """Where new sentences come from: some of templates, corpus, generated (the model goes on from a template), joined
    by commas; by default all, without corpus where none is given."""
    controls: str = ""
    """What is compared: some of other-patch, random-words, random-sentences, random-rows, joined by commas, or none; by
    default all, without the two of a corpus where none is given."""
    rounds: int = 3
    """How often new sentences are added and searched."""
    sentences: int = 4
    """New sentences for each patch and round, at most; equal ones count once."""
    patches: int = 300
    """Patches at most: those that lens judge would judge with as many and this seed."""
    truth: str = ""
    """What the patches show: a file as --judge truth:FILE takes it, or shapes, for images of the shapes world. Then
    only patches of known objects are taken."""
    cover: float = 0.5
    """The part of a patch (above 0, at most 1) that an object of a truth file has to cover."""
    templates: Path | None = None
    """A file with a template in each line, such as "a {0} {1}": {1} is a found word, {0} another one of its patch."""
    max_new_tokens: int = 12
    """Tokens that the model adds to a template at most."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1; by default CUDA where there is one."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    seed: int = 0
    """Of the sample of patches, and of everything that is chosen at random."""

    def __post_init__(self) -> None:
        """Raises InputError for invalid values."""
        require_positive(self, "rounds", "sentences", "patches", "max_new_tokens")
        require_seed(self.seed)
        require_cover(self.cover)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return exit_code(lambda: sharpen(parse(SharpenCommand, argv, "lens sharpen")))


def sharpen(command: SharpenCommand) -> int:
    """Run the rounds, write the tables, and print what was found."""
    require_place(command.out)
    with StageProgress(Terminal(stderr=True), "sharpen") as progress:
        progress.say(f"reading {command.results}")
        lines: list[str] = []
        for files, said in _sharpened(command, progress):  # a stopped command leaves the sources that are done
            for name, data in files.items():
                write_atomic(command.out / name, data)
            lines = [*said, *(f"{name}: {shown(command.out / name)}" for name in files)]
    for line in lines:
        print_out(line)
    return 0


def _corpus_name(source: str) -> str:
    return f"found-{source}.jsonl"


def _sharpened(command: SharpenCommand, progress: StageProgress) -> Iterator[tuple[dict[str, bytes], list[str]]]:
    """The files to write, and the lines to print, behind each source: of it and those before it."""
    from launch.sharpen_inputs import (
        asked,
        chosen_patches,
        corpus_of,
        opened_results,
        record_of,
        require_same,
        templates_of,
        without_effect,
    )
    from lenscore.judging.patches import partners
    from lenscore.sharpening.growing_search import StoreExtension, StoreSearch
    from lenscore.sharpening.run_states import states_of_patches
    from lenscore.sharpening.sharpening_measures import measured
    from lenscore.sharpening.sharpening_rounds import OF_CORPUS, SharpeningRounds

    results, store = opened_results(command)
    sources, controls = asked(command)
    templates = templates_of(command)
    patches, images, truth = chosen_patches(command, results)
    progress.say(f"{counted(len(patches), 'patch')} of {counted(len({one.image_id for one in patches}), 'image')}")
    needs_corpus = "corpus" in sources or not OF_CORPUS.isdisjoint(controls)
    for line in without_effect(command, sources, needs_corpus):
        progress.note(line)
    corpus, identity = corpus_of(command, progress) if needs_corpus else (None, None)
    record = json_bytes(record_of(command, results, store, identity))
    require_same(command.out, record)
    vlm, index = _loaded(command, results, store, progress)
    states = states_of_patches(results, vlm, patches, images, progress.say)
    progress.say("searching the store")
    base = StoreSearch.of(
        StoreExtension(store, index.available_layers, vlm), index, states.flatten(0, 1), results.top_k
    )
    made = _sources(command, sources, templates, vlm, corpus)
    rounds = SharpeningRounds(base, patches, made, controls, corpus, command.rounds, command.sentences, command.seed)
    truths = [truth.of(images[place.image_id], place) for place in patches] if truth else []
    at = {place.key: number for number, place in enumerate(patches)}
    others = [at[other.key] if other else None for other in partners(patches, command.seed)]
    notes = [f"truth: {note}" for note in (truth.notes if truth else ())]
    found: list[Measured] = []
    for source, of_source in groupby(rounds.run(progress.say), lambda one: one.source):
        found += [measured(one, truths, others) for one in of_source]
        if source:  # else the store alone
            files, lines = _tables(found, patches, images, results)
            yield files | {"inputs.json": record}, [*notes, *lines]


def _loaded(
    command: SharpenCommand, results: LensResults, store: EmbeddingStore, progress: StageProgress
) -> tuple[Vlm, ContextualIndex]:
    """The model of the run, and the layers of the store that the run searched, or all of another store."""
    from jobs.worker import settle_device
    from launch.sharpen_inputs import checkpoint_of
    from lenscore.analysis.lens_choice import choose_lenses
    from lenscore.models.loading import vlm_of
    from lenscore.single_image.analysis import known_of

    device = settle_device(command.device or "auto")
    checkpoint = checkpoint_of(command, results)
    layers = results.run.require_plan().facts.get("contextual_layers") if command.store is None else None
    choice = choose_lenses("latent", store, layers or "all", results.top_k, known_of(checkpoint))
    progress.say("loading the model")
    vlm = vlm_of(checkpoint, device)
    _, index = choice.build(vlm, progress.say)
    assert index is not None
    return vlm, index


def _sources(
    command: SharpenCommand, names: Sequence[str], templates: TemplateSource, vlm: Vlm, corpus: InvertedIndex | None
) -> dict[str, SentenceSource]:
    from lenscore.sharpening.generated_sentences import GeneratedSource
    from lenscore.sharpening.new_sentences import CorpusSource

    made: dict[str, SentenceSource] = {}
    for name in names:
        if name == "templates":
            made[name] = templates
        elif name == "corpus":
            assert corpus is not None
            made[name] = CorpusSource(corpus)
        else:
            made[name] = GeneratedSource(vlm, templates, command.max_new_tokens)
    return made


def _tables(
    found: Sequence[Measured], patches: Sequence[PatchRef], images: Mapping[int, ImagePatches], results: LensResults
) -> tuple[dict[str, bytes], list[str]]:
    from lenscore.reports.parts.table_formats import csv_bytes
    from lenscore.sharpening.sharpening_measures import (
        OverImages,
        differences_table,
        found_corpora,
        found_table,
        rounds_table,
        sentences_table,
        summary,
    )

    over_images = OverImages(patches)
    differences = differences_table(found, over_images)
    lines = summary(found, differences, over_images)
    paths = {image_id: image.path for image_id, image in images.items()}
    files = {
        "rounds.csv": csv_bytes(rounds_table(found, over_images, results.layers)),
        "differences.csv": csv_bytes(differences),
        "patches.csv": csv_bytes(found_table(found, patches, paths, results.layers)),
        "sentences.csv": csv_bytes(sentences_table(found)),
        **{_corpus_name(source): data for source, data in found_corpora(found).items()},
        "summary.txt": ("\n".join(lines) + "\n").encode(),
    }
    return files, lines


if __name__ == "__main__":
    sys.exit(main())
