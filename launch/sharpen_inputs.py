"""What `lens sharpen` reads: a run, its store and model, patches with their truth, templates and a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.model_file import commit_of
from launch.progress import StageProgress
from lenscore.contexts.corpus import TextChoice, corpus_changed, corpus_files, corpus_identity, read_corpus
from lenscore.index.hub import store_folder
from lenscore.judging.patches import ImagePatches, PatchRef, readable_images, sample_patches, whole_patches
from lenscore.models.checkpoint import Checkpoint
from lenscore.sharpening.inverted_index import InvertedIndex
from lenscore.sharpening.new_sentences import CORPUS, SOURCES, TEMPLATES, TemplateSource, checked_templates
from lenscore.sharpening.sharpening_rounds import CONTROLS, OF_CORPUS
from lenscore.sharpening.true_attributes import AttributeTruth, attribute_truth
from lenscore.user_files.finding import sha256_of, stored_path
from lenscore.user_files.notes import Notes
from lenscore.user_files.text_lines import Lines, single_lines
from lenscore.word_maps.word_truth import SHAPES
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError
from storage_layouts.files import parse_json
from storage_layouts.results import LensResults

if TYPE_CHECKING:
    from launch.sharpen import SharpenCommand


def opened_results(command: SharpenCommand) -> tuple[LensResults, EmbeddingStore]:
    """The run and the store to begin with."""
    results = LensResults.open(command.results)
    _ = results.prompt  # raises InputError for results that cannot run again
    if command.store is None and not results.needs_store:
        raise InputError(f"--results {command.results}: has no LatentLens, so it has no store; expected --store")
    store = results.store() if command.store is None else EmbeddingStore.open(store_folder(command.store))
    assert store is not None
    return results, store


def asked(command: SharpenCommand) -> tuple[list[str], list[str]]:
    """Sources and controls. Raises InputError for unknown ones, and for those that need a corpus where none is."""
    chosen: list[list[str]] = []
    for flag, given, known, of_corpus in (
        ("--sources", command.sources, SOURCES, {CORPUS}),
        ("--controls", command.controls, CONTROLS, OF_CORPUS),
    ):
        names = [name for name in given.replace(" ", "").split(",") if name]
        if flag == "--controls" and names == ["none"]:
            chosen.append([])
            continue
        for name in names:
            if name not in known:
                raise InputError(f"{flag}: no {name!r}; expected some of {', '.join(known)}")
            if name in of_corpus and not command.corpus:
                raise InputError(f"{flag} {name}: expected --corpus with it")
        usual = [name for name in known if command.corpus or name not in of_corpus]
        chosen.append([name for name in known if name in names] if names else usual)
    return chosen[0], chosen[1]


def without_effect(command: SharpenCommand, sources: Sequence[str], needs_corpus: bool) -> list[str]:
    """The flags that say something about sentences that are not asked for, with the reason."""
    found = []
    if (command.corpus or command.column is not None) and not needs_corpus:
        flag = "--corpus" if command.corpus else "--column"
        found.append(f"{flag} had no effect: no source and no control takes sentences of a corpus")
    if command.templates is not None and set(sources) <= {CORPUS}:
        found.append("--templates had no effect: no source takes templates")
    return found


def templates_of(command: SharpenCommand) -> TemplateSource:
    """The templates of the file, or the usual ones."""
    if command.templates is None:
        return TemplateSource(TEMPLATES)
    if not command.templates.is_file():
        raise InputError(f"--templates {command.templates}: no such file; expected a template in each line")
    lines = (line.strip() for line in single_lines(Lines(command.templates, "strict")))
    return TemplateSource(checked_templates([line for line in lines if line]))


def chosen_patches(
    command: SharpenCommand, results: LensResults
) -> tuple[list[PatchRef], dict[int, ImagePatches], AttributeTruth | None]:
    """The chosen patches, all images by their ids, and what is known of them."""
    if command.truth not in ("", SHAPES) and not Path(command.truth).is_file():
        raise InputError(f"--truth {command.truth}: no such file; expected a truth file, or {SHAPES}")
    images = readable_images(results.images(), results.geometry())
    truth = attribute_truth(command.truth, images, command.cover) if command.truth else None
    patches = sample_patches(images, command.patches, command.seed, truth.qualifying if truth else whole_patches)
    if not patches:
        what = "patch that an object of the truth covers" if truth else "whole patch"
        raise InputError(f"{command.results}: has no {what}")
    return patches, {image.image_id: image for image in images}, truth


def corpus_of(command: SharpenCommand, progress: StageProgress) -> tuple[InvertedIndex, dict[str, Any]]:
    """The sentences of the corpus, and its identity; what is left out of it is told.

    Raises InputError if it changes meanwhile.
    """
    notes = Notes()
    progress.say("reading the corpus")
    files = corpus_files(command.corpus, notes)
    written = [file.state() for file in files]
    identity = corpus_identity(files)
    index = InvertedIndex(read_corpus(files, TextChoice(command.column, seed=command.seed), notes), command.seed)
    for line in notes.lines():
        progress.note(line)
    if written != [file.state() for file in files]:
        raise corpus_changed()
    return index, identity


def record_of(
    command: SharpenCommand, results: LensResults, store: EmbeddingStore, corpus: dict[str, Any] | None
) -> dict[str, Any]:
    """What was read, for inputs.json, with the commits of what is from the Hub; `corpus` is its identity."""
    checkpoint = checkpoint_of(command, results)
    truth = Path(command.truth) if command.truth not in ("", SHAPES) else None
    settings = ("column", "sources", "controls", "rounds", "sentences", "patches", "truth", "cover", "max_new_tokens")
    return {
        "settings": {name: getattr(command, name) for name in (*settings, "seed")},
        "results": {"path": stored_path(results.path.resolve()), "run_id": results.run.run_id},
        "store": {"path": stored_path(store.path.resolve()), "run_id": store.run.run_id},
        "model": {"name": checkpoint.name, "revision": checkpoint.revision or None},
        **({"corpus": corpus} if corpus else {}),
        **{
            name: {"path": stored_path(path.resolve()), "sha256": sha256_of(path)}
            for name, path in (("templates", command.templates), ("truth", truth))
            if path is not None
        },
    }


def require_same(out: Path, record: bytes) -> None:
    """Raises InputError if a folder holds results of other inputs or settings than those of `record`."""
    file = out / "inputs.json"
    if file.exists() and file.read_bytes() != record:
        found, expected = (flattened(parse_json(file, data)) for data in (file.read_bytes(), record))
        different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise InputError(
            f"--out {out}: holds results of other inputs or settings ({', '.join(different)}); choose another folder, "
            "or delete it"
        )


def flattened(content: dict[str, Any]) -> dict[str, Any]:
    """Fields as "settings.seed"."""
    nested = ((name, value if isinstance(value, dict) else {"": value}) for name, value in content.items())
    return {f"{name}.{inner}".rstrip("."): value for name, values in nested for inner, value in values.items()}


def checkpoint_of(command: SharpenCommand, results: LensResults) -> Checkpoint:
    """The model of the run, at its commit."""
    config = results.run.config
    return Checkpoint(
        config["model"],
        commit_of(results.run) or config.get("revision"),
        command.trust_remote_code,
        config.get("dtype", "auto"),
        config.get("quantization", "none"),
        f"--results {command.results}: its model",
    )
