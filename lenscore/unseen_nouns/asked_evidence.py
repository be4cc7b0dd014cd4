"""What the lenses say of nouns when every patch is asked for them: exact ranks, with the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lenscore.images.image_files import MAX_PIXELS
from lenscore.judging.patches import ImagePatches
from lenscore.lenses import lenses_named, scores_words
from lenscore.models.checkpoint import Checkpoint
from lenscore.single_image.image_source import open_image_source
from lenscore.unseen_nouns.evidence import Evidence, exact_evidence, one_token_words
from lenscore.unseen_nouns.noun_lists import Nouns
from lenscore.user_files.finding import path_from_stored
from lenscore.word_maps.asked_words import has_tokens
from lenscore.word_maps.word_finder import WordFinder
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults


def asked_evidence(
    results: LensResults,
    nouns: Nouns,
    said: Mapping[int, Sequence[str]],
    images: Mapping[int, ImagePatches],
    device: str,
    trust_remote_code: bool,
    progress: Callable[[str], None],
) -> Iterator[tuple[int, dict[str, Evidence]]]:
    """The evidence for the nouns of images by image id, with model, layers, lenses and prompt of an analyze run.

    Asked for are a noun's name and those of its other words that are one token of the model. Words without a row are
    told to `progress`, and have no evidence of LatentLens. Raises InputError for a lens that cannot be asked for a
    word, and for an image that has changed.
    """
    config, facts = results.run.config, results.run.require_plan().facts
    for kind in lenses_named(",".join(results.lenses)):
        if not scores_words(kind):
            raise InputError(f"--exact: {kind.name} cannot be asked for a word; leave it out with --lenses")
    checkpoint = Checkpoint.of_run(results.run, trust_remote_code)
    tokens = one_token_words(results)
    wanted = {noun for of_image in said.values() for noun in of_image}
    words = sorted({form for noun in wanted for form in nouns.forms[noun] if form in tokens or form == noun})
    store, tuned = results.store() if results.needs_store else None, results.run.inputs.get("tuned")
    finder = WordFinder.load(
        [word for word in words if has_tokens(word, checkpoint.tokenizer)],
        config["model"],
        None if store is None else store.path,
        layers=results.layers,
        lenses=results.lenses,
        contextual_layers=facts.get("contextual_layers") or "all",
        prompt=results.prompt,
        tuned=Path(tuned["path"]) if tuned and "tuned" in results.lenses else None,
        patchscope_prompt=config.get("patchscope_prompt") if "patchscopes" in results.lenses else None,
        self_test=bool(config.get("self_test", True)),
        progress=progress,
        device=device,
        dtype=checkpoint.dtype,
        quantization=checkpoint.quantization,
        trust_remote_code=trust_remote_code,
        revision=checkpoint.revision,
        may_lack=True,
    )
    for note in finder.notes:
        progress(note)
    for number, image_id in enumerate(sorted(said)):
        progress(f"image {number + 1:,} of {len(said):,}")
        opened = open_image_source(path_from_stored(images[image_id].path), config.get("max_pixels", MAX_PIXELS))
        if opened.sha256 != images[image_id].sha256:
            raise InputError(f"{images[image_id].path}: has changed since {results.path} was made")
        found = finder.find(opened, among=frozenset().union(*(nouns.forms[noun] for noun in said[image_id])))
        yield image_id, {noun: exact_evidence(found, nouns.forms[noun], results.top_k) for noun in said[image_id]}
