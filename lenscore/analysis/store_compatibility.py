"""Checks that a store's contextual embeddings were made with the language model of a VLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lenscore.lenses.vocabulary_lens import excluded_tokens
from lenscore.models.decoder import text_config_of
from lenscore.models.fingerprints import text_weights_fingerprint
from lenscore.models.layers import resolve_layers
from lenscore.models.loading import LanguageModel
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError
from storage_layouts.files import read_json


def require_same_text(store: EmbeddingStore, name: str, config: Any, vocabulary: str) -> None:
    """Compare width, depth and vocabulary, which do not need the weights.

    `name` is the user's name of the VLM, `vocabulary` the `tokenizer_fingerprint` of its tokenizer. Raises InputError
    if the store is of another language model.
    """
    text = text_config_of(config)
    if store.dim != text.hidden_size:
        _refuse(store, name, f"hidden states of {store.dim} dimensions", f"{text.hidden_size}")
    if max(store.layers) >= text.num_hidden_layers:
        _refuse(store, name, f"a contextual layer {max(store.layers)}", f"layers 0 to {text.num_hidden_layers - 1}")
    if store.attrs["tokenizer_hash"] is None:
        raise InputError(
            f"--store {store.path}: converted without its model, so it cannot be compared with {name}; "
            "convert again with `lens convert --model`"
        )
    if store.attrs["tokenizer_hash"] != vocabulary:
        _refuse(store, name, f"tokenizer {store.attrs['tokenizer_hash'][:12]}", f"{vocabulary[:12]}")


def require_same_weights(store: EmbeddingStore, model: LanguageModel) -> None:
    """Compare a sample of every weight of the decoder. Raises InputError if the store is of another model."""
    found, expected = read_json(store.path / "model.json")["weights_hash"], text_weights_fingerprint(model.model)
    if found != expected:
        _refuse(store, model.name, f"decoder weights {found[:12]}", f"{expected[:12]}")


def token_candidates(tokenizer: Any, vocabulary: int) -> int:
    """The number of candidates of the lenses over the vocabulary."""
    return vocabulary - len(excluded_tokens(tokenizer, vocabulary))


def require_candidates(top_k: int, candidates: int, where: str) -> None:
    """Raises InputError if there are fewer than `top_k` candidates."""
    if top_k > candidates:
        raise InputError(f"--top-k {top_k}: {where} has {candidates:,} candidates; expected 1 to {candidates}")


def layers_to_search(store: EmbeddingStore, requested: str | Sequence[int], config: Any) -> list[int]:
    """The contextual layers of "all" or numbers as in "1,2,-1". Raises InputError for one that is not in the store."""
    layers = asked_layers(requested, config)
    if layers is None:
        return list(store.layers)
    for layer in layers:
        if layer not in store.layers:
            raise InputError(
                f"--contextual-layers: {store.path} has no layer {layer}; expected some of "
                + ", ".join(map(str, store.layers))
            )
    return layers


def asked_layers(requested: str | Sequence[int], config: Any) -> list[int] | None:
    """The numbers of "1,2,-1", of whatever store; None for "all". Raises InputError for a layer beyond the model."""
    if requested == "all":
        return None
    depth = text_config_of(config).num_hidden_layers
    return list(resolve_layers(requested, depth, visual=False, flag="--contextual-layers"))


def _refuse(store: EmbeddingStore, name: str, found: str, expected: str) -> None:
    raise InputError(
        f"--store {store.path}: made from {store.attrs.get('model')} with {found}, "
        f"but the text side of {name} has {expected}; "
        "make a store with `extract --model` and this VLM (its LLM reads the corpus)"
    )
