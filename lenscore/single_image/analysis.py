"""One image through a model and its lenses, as `lens analyze` does it, without a run folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lenscore.analysis.engine import AnalysisEngine, NotFiniteError
from lenscore.analysis.store_compatibility import (
    layers_to_search,
    require_candidates,
    require_same_text,
    require_same_weights,
    token_candidates,
)
from lenscore.images.geometry import family_of
from lenscore.images.image_files import MAX_PIXELS
from lenscore.images.preprocessing import require_no_placeholder
from lenscore.index.contextual_index import ContextualIndex
from lenscore.lenses import LENSES, Lens, lenses_named
from lenscore.models.decoder import text_config_of
from lenscore.models.layers import resolve_layers
from lenscore.models.loading import Vlm, absolute_model, load_config, load_tokenizer, load_vlm, require_vision
from lenscore.self_test import require_self_test
from lenscore.single_image.analyzed_image import AnalyzedImage
from lenscore.single_image.image_source import ImageSource, open_image_source
from lenscore.single_image.reading_of_results import reading_of
from lenscore.statistics.sources import model_label
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError

IndexSource = ContextualIndex | EmbeddingStore | str | os.PathLike[str]
"""Contextual embeddings in memory, a store, or the folder of a store."""


def analyze_image(
    image: ImageSource,
    vlm: Vlm | str | os.PathLike[str],
    index: IndexSource | None = None,
    *,
    layers: str | Sequence[int] = "paper",
    lenses: str | Sequence[str] | None = None,
    top_k: int = 5,
    contextual_layers: str | Sequence[int] = "all",
    prompt: str = "Describe this image.",
    name: str | None = None,
    caption: str = "",
    self_test: bool = True,
    progress: Callable[[str], None] = lambda message: None,
    max_pixels: int = MAX_PIXELS,
    **loading: Any,
) -> AnalyzedImage:
    """Ask the lenses about every visual token of one image: one forward pass, the numbers of `lens analyze`.

    Args:
        image: a file, a PIL image or an array of pixels.
        vlm: what `load_vlm` returns, or the folder or Hub name of a model. For several images load it once.
        index: contextual embeddings of the model's own LLM: an index, a store or its folder. None leaves the latent
            lens out. For several images open it once, with `ContextualIndex.from_store`. An index that comes from no
            store does not say whose it is, so nobody can check that.
        layers: visual layers: "paper", "all", or numbers.
        lenses: names, in the order to show; by default all, the latent one where there is an index.
        top_k: candidates that each lens keeps.
        contextual_layers: layers of a store to search: "all", or numbers.
        prompt: the text behind the image (causal models do not see it at the visual tokens).
        name: what to call the image; by default its file name.
        caption: what somebody says about it.
        self_test: first see whether patches, layers and logits of the model are what lenscore takes them for; once a
            model and machine.
        progress: takes words about the step that begins.
        max_pixels: a file with more pixels is refused, since a small one may be made to fill the memory.
        loading: arguments of `load_vlm` (device, dtype, revision, ...), where `vlm` is a name.

    Raises:
        InputError: no such image, model, layer or lens; an image that cannot be read; a store of another model; the
            latent lens without an index; hidden states that are not finite.

    """
    opened = open_image_source(image, max_pixels)
    if isinstance(vlm, Vlm) and loading:
        raise TypeError(f"analyze_image: {', '.join(loading)} go with the name of a model, not with a loaded one")
    # All that can be refused without the weights is refused before they are loaded.
    kinds = _kinds(lenses, index, top_k)
    model, config, tokenizer = _known_of(vlm, bool(loading.get("trust_remote_code")), loading.get("revision"))
    asked = resolve_layers(layers, text_config_of(config).num_hidden_layers, visual=True)
    source = _opened(index) if index is not None and any(kind.needs_store for kind in kinds) else None
    if isinstance(source, ContextualIndex) and contextual_layers != "all":
        raise TypeError("analyze_image: contextual_layers go with a store; open the index with these layers")
    store = source.store if isinstance(source, ContextualIndex) else source
    if store is not None:
        require_same_text(store, model, config, tokenizer)
    searched = layers_to_search(source, contextual_layers, config) if isinstance(source, EmbeddingStore) else []
    if isinstance(source, EmbeddingStore):
        require_candidates(top_k, source.rows * len(searched), str(source.path))
    if not all(kind.needs_store for kind in kinds):
        tokens = token_candidates(tokenizer, text_config_of(config).vocab_size)
        require_candidates(top_k, tokens, f"the vocabulary of {model}")
    require_no_placeholder(prompt, config, tokenizer)
    if not isinstance(vlm, Vlm):
        progress("loading the model")
        vlm = load_vlm(vlm, **loading)
    if self_test:
        progress("testing the model")
        require_self_test(vlm)
    if store is not None:
        require_same_weights(store, vlm)
    if isinstance(source, EmbeddingStore):
        progress("loading the contextual embeddings")
        source = ContextualIndex.from_store(source, searched, vlm.device)
    built = [kind.from_model(vlm, source if kind.needs_store else None) for kind in kinds]
    engine = AnalysisEngine(vlm, built, asked, top_k, prompt, batch_size=1, threads=1)
    progress("asking the lenses")
    try:
        findings = engine.analyze_picture(opened.pixels)
    except NotFiniteError as error:
        raise InputError(str(error)) from None
    if findings.unreadable:
        raise InputError(f"{opened.path or 'image'}: {findings.unreadable[0]}")
    reading = reading_of(opened, findings, asked, vlm.tokenizer, source, name or opened.name, caption)
    return AnalyzedImage(reading, model_label(absolute_model(model)), opened.sha256)


def _opened(index: IndexSource) -> ContextualIndex | EmbeddingStore:
    return index if isinstance(index, (ContextualIndex, EmbeddingStore)) else EmbeddingStore.open(Path(index))


def _kinds(lenses: str | Sequence[str] | None, index: IndexSource | None, top_k: int) -> list[type[Lens]]:
    """The lenses to ask. InputError for an unknown one, and for one that searches contextual embeddings without any."""
    if top_k < 1:
        raise InputError(f"--top-k: found {top_k}, expected at least 1")
    if lenses is None:
        return [lens for lens in LENSES.values() if index is not None or not lens.needs_store]
    kinds = lenses_named(lenses if isinstance(lenses, str) else ",".join(lenses))
    for kind in kinds:
        if kind.needs_store and index is None:
            raise InputError(
                f"--lenses {kind.name}: needs contextual embeddings; give --store STORE.zarr (made by extract), "
                "or leave it out"
            )
    return kinds


def _known_of(vlm: Vlm | str | os.PathLike[str], trust_remote_code: bool, revision: str | None) -> tuple[str, Any, Any]:
    """A model's name, configuration and tokenizer. InputError if it takes no images or is not understood."""
    if isinstance(vlm, Vlm):
        return vlm.name, vlm.model.config, vlm.tokenizer
    config = load_config(vlm, trust_remote_code, revision)
    require_vision(vlm, config, trust_remote_code)
    family_of(config, str(vlm))
    return str(vlm), config, load_tokenizer(vlm, trust_remote_code, revision)
