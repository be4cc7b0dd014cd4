"""Contextual embeddings of chosen rows: a forward pass over nothing but what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lenscore.contexts.prefix_trees import LONGEST, TREE, model_inputs, pack, understands_trees
from lenscore.contexts.tokenization import ordinary_tokens, tokenize
from lenscore.models.hidden_states import run_until
from lenscore.models.text_only import text_inputs
from storage_layouts.errors import InputError

FEWER = 0.8
"""Sentences are packed if that leaves this share of their tokens at most: a tree's attention costs a little, too."""


@dataclass(frozen=True)
class Batch:
    """Sentences of one length, each cut where nothing kept follows; or trees of short sentences.

    `ids` int64 [sentences or trees, length]; `places` and `rows` int64 [n] say which of these tokens, counted through,
    are kept, and as which rows of the call. Trees have `positions` and `ends` as well, see `PrefixTrees`.
    """

    ids: np.ndarray
    places: np.ndarray
    rows: np.ndarray
    positions: np.ndarray | None = None
    ends: np.ndarray | None = None


class RowReader:
    """Computes hidden states of rows with one model.

    Sentences are cut after their last wanted position (in a causal model what follows changes nothing), and the pass
    stops at the deepest layer. What short sentences begin with in common is computed once (`prefix_trees`), where the
    model understands that and it pays; the others are batched by exact length, so that nothing is padded. The batches
    depend on the model, the rows and `batch_tokens` alone, so equal calls give equal bytes on equal machines.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        layers: Sequence[int | str],
        *,
        batch_tokens: int,
        max_tokens: int,
        causal: bool,
        trees: bool = True,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._layers = tuple(layers)
        self._batch_tokens = batch_tokens
        self._max_tokens = max_tokens
        self._causal = causal
        embeddings = model.get_input_embeddings().weight
        self._device, self._dtype = embeddings.device, embeddings.dtype
        wanted = trees and causal and batch_tokens >= TREE
        self._trees = wanted and understands_trees(model, ordinary_tokens(tokenizer, 3 * LONGEST))

    def states(self, rows: pa.Table, texts: Mapping[int, str]) -> dict[Any, Tensor]:
        """Hidden states of the rows at every layer: {layer: [len(rows), dim]} in the model's dtype, on its device.

        `rows` are a slice of the row table, `texts` maps sentence_id to text. Raises InputError if the tokenizer
        no longer gives the tokens that were planned.
        """
        return self.forward(self.batches(rows, texts))

    def batches(self, rows: pa.Table, texts: Mapping[int, str]) -> list[Batch]:
        """What is to be forwarded for these rows; needs no device. Arguments and errors as in `states`."""
        return list(self._batches(rows, texts))

    def forward(
        self, batches: Sequence[Batch], progress: Callable[[int], None] = lambda rows: None
    ) -> dict[Any, Tensor]:
        """Hidden states of the rows that all the batches together hold, as `states` returns them.

        After each batch `progress` takes how many rows are computed (on a GPU: are queued on it).
        """
        found: dict[Any, Tensor] = {}
        computed = 0
        count = sum(len(batch.rows) for batch in batches)
        for batch in batches:
            captured = run_until(self._model, self._inputs(batch), self._layers)
            target, source = self._on_device(batch.rows), self._on_device(batch.places)
            for layer in self._layers:
                state = captured[layer]  # on the device of its block, which may be another one
                if layer not in found:
                    found[layer] = state.new_empty(count, state.shape[-1])
                found[layer][target.to(state.device)] = state.flatten(0, 1)[source.to(state.device)]
            computed += len(batch.rows)
            progress(computed)
        return found

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        ids = self._on_device(batch.ids)
        if batch.positions is None or batch.ends is None:
            return text_inputs(self._model, ids)
        return model_inputs(ids, self._on_device(batch.positions), self._on_device(batch.ends), self._dtype)

    def _on_device(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers).to(self._device)

    def _batches(self, rows: pa.Table, texts: Mapping[int, str]) -> Iterator[Batch]:
        position = rows["position"].to_numpy().astype(np.int64)
        # The rows of a sentence are neighbours, so its number of rows is all that is to be known of it.
        sentence_ids, first, count = np.unique(rows["sentence_id"].to_numpy(), return_index=True, return_counts=True)
        encoded = tokenize([texts[int(i)] for i in sentence_ids], self._tokenizer, self._max_tokens)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        tokens = np.fromiter(chain.from_iterable(encoded), np.int64, int(lengths.sum()))
        starts = np.cumsum(lengths) - lengths
        sentence = np.repeat(np.arange(len(encoded)), count)
        wrong = position >= lengths[sentence]
        if not wrong.any():
            wrong = tokens[starts[sentence] + position] != rows["token_id"].to_numpy()
        if wrong.any():
            raise InputError(
                f"sentence {sentence_ids[sentence[wrong][0]]}: the tokenizer gives other tokens than when the run was "
                "planned; use the versions named in run.json, or a new --out"
            )
        ends = np.maximum.reduceat(position, first) + 1 if self._causal else lengths
        found = _Sentences(tokens, starts, ends, position, first, count)
        yield from found.batches(self._batch_tokens, self._trees)


@dataclass(frozen=True)
class _Sentences:
    """Sentences and their wanted rows, in numbers.

    Sentence i has the tokens from `starts[i]` on, of which `ends[i]` are needed, and `count[i]` rows from `first[i]`
    on, whose places in the sentence `position` [rows] has.
    """

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    position: np.ndarray
    first: np.ndarray
    count: np.ndarray

    def batches(self, batch_tokens: int, trees: bool) -> Iterator[Batch]:
        """Trees first, if wanted, then the others by length."""
        packed = np.zeros(len(self.ends), bool)
        if trees and (short := self.ends <= LONGEST).any():
            batches = list(self._packed(np.flatnonzero(short), max(1, batch_tokens // TREE)))
            if sum(batch.ids.size for batch in batches) <= FEWER * self.ends[short].sum():
                packed = short
                yield from batches
        for length in np.unique(self.ends[~packed]).tolist():
            bucket = np.flatnonzero(~packed & (self.ends == length))
            size = max(1, batch_tokens // length)
            for some in (bucket[i : i + size] for i in range(0, len(bucket), size)):
                number, rows = self._rows_of(some)
                yield Batch(self._ids(some, length), number * length + self.position[rows], rows)

    def _packed(self, some: np.ndarray, size: int) -> Iterator[Batch]:
        width = int(self.ends[some].max())
        needed = np.arange(width) < self.ends[some, None]
        trees = pack(np.where(needed, self._ids(some, width), -1), self.ends[some])
        number, rows = self._rows_of(some)
        places = trees.places[number, self.position[rows]]
        for i in range(0, len(trees.ids), size):
            here = (places >= i * TREE) & (places < (i + size) * TREE)
            part = slice(i, i + size)
            yield Batch(trees.ids[part], places[here] - i * TREE, rows[here], trees.positions[part], trees.ends[part])

    def _ids(self, some: np.ndarray, length: int) -> np.ndarray:
        """The first tokens of some sentences [n, length]; beyond a sentence's end anything."""
        places = self.starts[some, None] + np.arange(length)
        return self.tokens[np.minimum(places, len(self.tokens) - 1)]

    def _rows_of(self, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of some sentences, and of each the place of its sentence among them."""
        count = self.count[some]
        number = np.repeat(np.arange(len(some)), count)
        kept = np.arange(len(number)) - np.repeat(np.cumsum(count) - count, count)
        return number, kept + self.first[some][number]
