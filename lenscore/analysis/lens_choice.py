"""The lenses that a caller asks for, checked before a model is loaded, and built after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenscore.analysis.store_compatibility import (
    asked_layers,
    layers_to_search,
    require_candidates,
    require_same_text,
    require_same_weights,
    token_candidates,
)
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.hub import download_layers
from lenscore.lenses import LENSES, Lens, build_lenses, lenses_named, needs_prompt, needs_translators
from lenscore.lenses.patchscopes import PROMPT_FLAG, USUAL_PROMPT, tokens_of_prompt
from lenscore.lenses.tuned import require_same_width
from lenscore.models.decoder import text_config_of
from lenscore.models.fingerprints import tokenizer_fingerprint
from lenscore.models.loading import LanguageModel
from lenscore.models.source import hub_repository
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError
from storage_layouts.tuned_lens import TunedLensFiles

IndexSource = ContextualIndex | EmbeddingStore | str | os.PathLike[str]
"""Contextual embeddings in memory, a store, the folder of one, or hf:REPO, a store or latentlens cache on the Hub."""


@dataclass(frozen=True)
class LensChoice:
    """Lenses that fit a model, not built yet; see `choose_lenses`."""

    kinds: tuple[type[Lens], ...]
    source: ContextualIndex | EmbeddingStore | None
    contextual_layers: tuple[int, ...]
    tuned: TunedLensFiles | None = None
    patchscope_prompt: str | None = None
    patchscope_tokens: int = 0

    def build(self, model: LanguageModel, progress: Callable[[str], None]) -> tuple[list[Lens], ContextualIndex | None]:
        """The lenses and the index that they search. Raises InputError if the store is of another model."""
        source = self.source
        store = source.store if isinstance(source, ContextualIndex) else source
        if store is not None:
            require_same_weights(store, model)
        if isinstance(source, EmbeddingStore):
            progress("loading the contextual embeddings")
            source = ContextualIndex.from_store(source, self.contextual_layers, model.devices)
        return build_lenses(
            self.kinds, model, source, self.tuned, self.patchscope_prompt, self.patchscope_tokens
        ), source


def choose_lenses(
    lenses: str | Sequence[str] | None,
    index: IndexSource | None,
    contextual_layers: str | Sequence[int],
    top_k: int,
    model: tuple[str, Any, Any],
    tuned: str | os.PathLike[str] | None = None,
    patchscope_prompt: str | None = None,
    patchscope_tokens: int = 0,
) -> LensChoice:
    """Check what can be checked without the weights.

    Args:
        lenses: names; None for all that have what they need.
        index: contextual embeddings of the model's LLM, or None.
        contextual_layers: layers of a store to search: "all", or numbers.
        top_k: candidates that each lens keeps.
        model: its name, configuration and tokenizer.
        tuned: a run of `lens tune` or a folder of the tuned-lens package, or None.
        patchscope_prompt: of Patchscopes, see `tokens_of_prompt`; None for that of token identity.
        patchscope_tokens: length of the descriptions of Patchscopes at most; 0 for none.

    Raises:
        InputError: an unknown lens; a lens without the index or translators that it needs; a store or Tuned Lens of
            another model; a store without such layers; more candidates than there are; a prompt that does not fit,
            or without Patchscopes.
        TypeError: ``contextual_layers`` together with an index.

    """
    name, config, tokenizer = model
    kinds = _kinds(lenses, index, tuned, patchscope_prompt, top_k)
    if patchscope_tokens < 0:
        raise InputError(f"--patchscope-tokens: found {patchscope_tokens}, expected 0 or more")
    if any(needs_prompt(kind) for kind in kinds):
        prompt = USUAL_PROMPT if patchscope_prompt is None else patchscope_prompt
        tokens_of_prompt(prompt, tokenizer, config, patchscope_tokens)
    elif patchscope_prompt is not None or patchscope_tokens:
        raise InputError(f"{PROMPT_FLAG}: --lenses {lenses} has no patchscopes; add it, or leave the prompt out")
    files = TunedLensFiles.open(Path(tuned)) if tuned is not None else None
    if files is not None:
        require_same_width(files, name, config)
    source = None
    if index is not None and any(kind.needs_store for kind in kinds):
        source = (
            index if isinstance(index, ContextualIndex | EmbeddingStore) else _opened(index, contextual_layers, config)
        )
    if isinstance(index, ContextualIndex) and contextual_layers != "all":
        raise TypeError("contextual_layers need a store; open the index with these layers")
    store = source.store if isinstance(source, ContextualIndex) else source
    if store is not None:
        require_same_text(store, name, config, tokenizer_fingerprint(tokenizer))
    searched: list[int] = []
    if isinstance(source, EmbeddingStore):
        searched = layers_to_search(source, contextual_layers, config)
        require_candidates(top_k, source.candidates * len(searched), str(source.path))
    if not all(kind.needs_store for kind in kinds):
        tokens = token_candidates(tokenizer, text_config_of(config).vocab_size)
        require_candidates(top_k, tokens, f"the vocabulary of {name}")
    return LensChoice(tuple(kinds), source, tuple(searched), files, patchscope_prompt, patchscope_tokens)


def _opened(
    index: str | os.PathLike[str], contextual_layers: str | Sequence[int], config: Any
) -> ContextualIndex | EmbeddingStore:
    """The store of a folder, or the store or latentlens cache of a repository, of which these layers are downloaded."""
    if (named := hub_repository(index)) is None:
        return EmbeddingStore.open(Path(index))
    folder, layers = download_layers(named[0], asked_layers(contextual_layers, config), revision=named[1])
    if not (folder / "run.json").exists():
        return ContextualIndex.from_directory(folder, layers)
    return EmbeddingStore.open(folder, layers=layers)


def _kinds(
    lenses: str | Sequence[str] | None, index: object, tuned: object, prompt: object, top_k: int
) -> list[type[Lens]]:
    if top_k < 1:
        raise InputError(f"--top-k: found {top_k}, expected at least 1")
    if lenses is None:
        found = [lens for lens in LENSES.values() if index is not None or not lens.needs_store]
        found = [lens for lens in found if tuned is not None or not needs_translators(lens)]
        return [lens for lens in found if prompt is not None or not needs_prompt(lens)]
    kinds = lenses_named(lenses if isinstance(lenses, str) else ",".join(lenses))
    for kind in kinds:
        if kind.needs_store and index is None:
            raise InputError(
                f"--lenses {kind.name}: needs contextual embeddings; give --store STORE.zarr (made by extract), "
                "or leave it out"
            )
        if needs_translators(kind) and tuned is None:
            raise InputError(
                f"--lenses {kind.name}: needs translators; give --tuned RUN (made by tune), or leave it out"
            )
    return kinds
