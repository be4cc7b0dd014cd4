"""Contextual embeddings of chosen rows, from a forward pass over only the tokens that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lenscore.contexts.tokenization import tokenize
from lenscore.models.hidden_states import run_until
from lenscore.models.text_only import text_inputs
from storage_layouts.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Sentences of one length, each cut after its last kept token.

    `ids` int64 [sentences, length]; `places` int64 [n] are flat indices of the kept tokens in it, `rows` int64 [n] the
    rows that they become.
    """

    ids: np.ndarray
    places: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class RowReader:
    """Computes hidden states of rows with one model.

    In a causal model sentences are cut after their last kept position. They are batched by exact length, without
    padding. Batches depend only on the rows and `batch_tokens`, so equal calls give equal bytes on equal machines.
    """

    model: Any
    tokenizer: Any
    layers: Sequence[int | str]
    _: KW_ONLY
    batch_tokens: int
    max_tokens: int
    causal: bool

    def states(self, rows: pa.Table, texts: Mapping[int, str]) -> dict[Any, Tensor]:
        """Hidden states of the rows at every layer: {layer: [len(rows), dim]} in the model's dtype, on its device.

        `rows` are a slice of the row table, `texts` maps sentence_id to text. Raises InputError if the tokenizer
        gives other tokens than those in the table.
        """
        return self.forward(self.batches(rows, texts))

    def batches(self, rows: pa.Table, texts: Mapping[int, str]) -> list[Batch]:
        """Batches for `forward`, made without a device. Arguments and errors as in `states`."""
        position = rows["position"].to_numpy().astype(np.int64)
        # The rows of a sentence are neighbours in the table, so `first` and `count` locate them.
        sentence_ids, first, count = np.unique(rows["sentence_id"].to_numpy(), return_index=True, return_counts=True)
        encoded = tokenize([texts[int(i)] for i in sentence_ids], self.tokenizer, self.max_tokens)
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
        ends = np.maximum.reduceat(position, first) + 1 if self.causal else lengths
        batches = []
        for length in np.unique(ends).tolist():
            bucket = np.flatnonzero(ends == length)
            size = max(1, self.batch_tokens // length)
            for some in (bucket[i : i + size] for i in range(0, len(bucket), size)):
                ids = tokens[starts[some, None] + np.arange(length)]
                number, chosen = _rows_of(count[some], first[some])
                batches.append(Batch(ids, number * length + position[chosen], chosen))
        return batches

    def forward(
        self, batches: Sequence[Batch], progress: Callable[[int], None] = lambda rows: None
    ) -> dict[Any, Tensor]:
        """Hidden states of the rows of all batches, as `states` returns them.

        After each batch `progress` receives the number of rows computed so far (on a GPU: queued).
        """
        found: dict[Any, Tensor] = {}
        computed = 0
        count = sum(len(batch.rows) for batch in batches)
        for batch in batches:
            captured = run_until(self.model, text_inputs(self.model, self._on_device(batch.ids)), self.layers)
            target, source = self._on_device(batch.rows), self._on_device(batch.places)
            for layer in self.layers:
                state = captured[layer]  # on the device of its block
                if layer not in found:
                    found[layer] = state.new_empty(count, state.shape[-1])
                found[layer][target.to(state.device)] = state.flatten(0, 1)[source.to(state.device)]
            computed += len(batch.rows)
            progress(computed)
        return found

    def _on_device(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers).to(self.model.get_input_embeddings().weight.device)


def _rows_of(count: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of sentences with `count` rows from `first` on: (index of the sentence, row), one entry a row."""
    number = np.repeat(np.arange(len(count)), count)
    kept = np.arange(len(number)) - np.repeat(np.cumsum(count) - count, count)
    return number, kept + first[number]
