"""Hidden states searched in a store, and again in sentences that are added to it, without searching the store twice."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from lenscore.contexts.context_table import SMALL, describe, row_table, sample_contexts
from lenscore.contexts.contextual_states import RowReader
from lenscore.contexts.joined_tables import contexts_of_rows
from lenscore.contexts.row_choice import row_choice_of
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.quantized_layer import QuantizedLayer
from lenscore.index.row_words import RowWord, RowWords
from lenscore.index.topk import TopK, merge
from lenscore.models.decoder import most_tokens, text_config_of
from lenscore.models.loading import LanguageModel
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError
from storage_layouts.fields import FLAG, SIZE, TEXT, check_fields, optional
from storage_layouts.quantize import encode

BATCH_TOKENS = 4096
"""Tokens of new sentences that run together at most."""

_USUAL = {"causal": True, "max_tokens": None, "leave_out": ""}
"""Settings of a store, in its run.json, with those of one that has none: of one that was converted, or an older one."""
_KINDS = {"causal": FLAG, "max_tokens": optional(SIZE), "leave_out": TEXT}

_Hashes = npt.NDArray[np.uint64]


class StoreExtension:
    """Makes rows of new sentences as `lens extract` made those of a store: model, layers, encoding, sinks.

    Every token of a new sentence becomes a row, unless the store has none of its kind (special tokens, first positions,
    words that were left out).
    """

    def __init__(self, store: EmbeddingStore, layers: Sequence[int], llm: LanguageModel) -> None:
        self.store, self._layers, self._llm = store, tuple(layers), llm
        config = _USUAL | store.run.config
        check_fields(store.path / "run.json", config, _KINDS, within="config")
        longest = most_tokens(text_config_of(llm.model.config))
        if (config["max_tokens"] or 0) > longest:
            raise InputError(
                f"--store {store.path}: its sentences have up to {config['max_tokens']} tokens, but the model takes at "
                f"most {longest}; expected a store of this model"
            )
        self._choice = row_choice_of(
            llm.model.config,
            config["causal"],
            store.attrs.get("positions", "all"),
            config["max_tokens"],
            config["leave_out"],
            per_token=sys.maxsize,
        )
        self._reader = RowReader(
            llm.model,
            llm.tokenizer,
            self._layers,
            batch_tokens=BATCH_TOKENS,
            max_tokens=self._choice.max_tokens,
            causal=self._choice.causal,
        )

    def table(self, sentences: Sequence[str]) -> tuple[pa.Table, pa.Table] | None:
        """Rows and sentences, as in a store; equal prefixes are one row. None if no token becomes a row."""
        tokenizer = self._llm.tokenizer
        sampled = sample_contexts(sentences, tokenizer, self._choice, lambda message: None, SMALL)
        if not len(sampled.kept):
            return None
        texts, kept = describe(sentences, tokenizer, self._choice, sampled.kept)
        table = row_table(tokenizer, replace(sampled, kept=kept), texts)
        return table.rows, table.sentences

    def prefix_hashes(self, rows: pa.Table, sentences: pa.Table) -> _Hashes:
        """A hash of each row's tokens up to its own, uint64 [rows]: equal ones have the same state."""
        contexts = contexts_of_rows(rows, sentences, self._llm.tokenizer, self._choice)
        if not np.array_equal(contexts.token, rows["token_id"].to_numpy()):
            raise InputError(
                f"--store {self.store.path}: the tokenizer gives other tokens than when the store was made; use the "
                "versions named in its run.json"
            )
        hashes: _Hashes = contexts.hash[:, 0]
        return hashes

    def index_of(self, rows: pa.Table, sentences: pa.Table) -> ContextualIndex | None:
        """The rows as an index; None if all of them are attention sinks, which no search finds."""
        texts = dict(zip(sentences["sentence_id"].to_pylist(), sentences["text"].to_pylist(), strict=True))
        states = self._reader.states(rows, texts)
        dims = {layer: self.store.outlier_dims(layer) for layer in self._layers}
        encoded = {
            layer: encode(states.pop(layer), self.store.encoding, dims[layer], f"layer {layer} of new sentences")
            for layer in self._layers
        }
        at_sink = [encoded[layer].norm >= self.store.sink_norm(layer) for layer in self._layers]
        sinks = torch.stack([found.cpu() for found in at_sink]).any(dim=0).nonzero().flatten().numpy()
        if len(sinks) == len(rows):
            return None
        layers = {
            layer: QuantizedLayer(encoded[layer], self.store.encoding, dims[layer], sinks) for layer in self._layers
        }
        return ContextualIndex(layers, rows, sentences)


@dataclass(frozen=True)
class SearchStep:
    """What one search found: that of a store, or of new sentences behind those of earlier steps.

    Attributes:
        new: the sentences that were added.
        hashes: `StoreExtension.prefix_hashes` of the rows that were added, or of all rows of the store.
        top: the best rows [n, k] so far, on the CPU. Added rows count from the last row of the store on.
        described: the words of these rows.

    """

    new: Sequence[str]
    hashes: _Hashes
    top: TopK
    described: Mapping[int, RowWord]


def search_store(extension: StoreExtension, index: ContextualIndex, queries: Tensor, k: int) -> SearchStep:
    """Search states [n, dim] in an index of the store. Raises InputError if it has fewer than k candidates."""
    words = index.words(index.available_layers[0])
    top = TopK(*(part.cpu() for part in index.top(queries, k)))
    found = np.unique(top.ids.numpy()).tolist()
    described = dict(zip(found, words.describe(found), strict=True))
    return SearchStep((), extension.prefix_hashes(words.rows, words.sentences), top, described)


class GrowingSearch:
    """The best rows of a store and of sentences that were added.

    Args:
        extension: of the store.
        queries: the states [n, dim] that are searched.
        steps: those before, first that of the store.

    Attributes:
        top: the best rows [n, k] so far: by score, then contextual layer, then row.
        rows: how many rows were added.

    """

    def __init__(self, extension: StoreExtension, queries: Tensor, steps: Sequence[SearchStep]) -> None:
        self._extension, self._queries = extension, queries
        self._hashes = np.concatenate([step.hashes for step in steps])
        self._known = len(self._hashes)
        self._described = steps[-1].described
        self._added: list[RowWords] = []
        self.top = steps[-1].top
        self.rows = self._known - len(steps[0].hashes)

    def add(self, sentences: Sequence[str], most: int | None = None) -> Sequence[str]:
        """Search rows of new sentences too; returns the sentences that were needed.

        Rows whose state the store or an earlier sentence has are left out. With `most`, only the first so many rows are
        taken, and the sentences behind them are not needed.
        """
        if not sentences or most == 0:
            return sentences[:most]
        table = self._extension.table(sentences)
        if table is None:
            return sentences
        rows, texts = table
        hashes = self._extension.prefix_hashes(rows, texts)
        new = np.flatnonzero(~np.isin(hashes, self._hashes))[:most]
        if not len(new):
            return sentences
        rows = rows.take(pa.array(new)).combine_chunks()
        index = self._extension.index_of(rows, texts)
        if index is not None:
            k = self.top.ids.shape[1]
            found = TopK(*(part.cpu() for part in index.top(self._queries, min(k, index.candidates))))
            self.top = merge([self.top, found._replace(ids=found.ids + len(self._hashes))], k)
        self._hashes = np.concatenate([self._hashes, hashes[new]])
        self._added.append(RowWords(rows, texts))
        self.rows += len(rows)
        return sentences[: rows["sentence_id"][-1].as_py() + 1] if len(new) == most else sentences

    def describe(self) -> Mapping[int, RowWord]:
        """The words of all rows in `top`."""
        ids = np.unique(self.top.ids.numpy())
        described = {row: self._described[row] for row in ids[ids < self._known].tolist()}
        first = self._known
        for words in self._added:
            inside = ids[(ids >= first) & (ids < first + len(words))]
            described |= zip(inside.tolist(), words.describe((inside - first).tolist()), strict=True)
            first += len(words)
        return described

    def step(self, new: Sequence[str]) -> SearchStep:
        """What was found since the steps before, with these sentences."""
        return SearchStep(new, self._hashes[self._known :], self.top, self.describe())
