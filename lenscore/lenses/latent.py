"""LatentLens: the contextual text embeddings nearest to a hidden state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.topk import TopK
from lenscore.lenses.references import References
from lenscore.lenses.word_scores import WordIds, WordScores
from lenscore.models.loading import LanguageModel
from storage_layouts.errors import InputError


class LatentLens:
    """Cosine similarity with contextual text embeddings of the same LLM (arXiv 2602.00462, section 3).

    All contextual layers of the index are searched together: a visual token of layer 0 may be similar to a word of
    layer 8.
    """

    name: ClassVar[str] = "latent"
    needs_store: ClassVar[bool] = True
    ids: ClassVar[Literal["rows", "tokens"]] = "rows"

    def __init__(self, index: ContextualIndex) -> None:
        self.index = index

    @classmethod
    def from_model(cls, llm: LanguageModel, index: ContextualIndex | None) -> LatentLens:
        """The lens over an index of the model's LLM. Raises InputError if `index` is None."""
        if index is None:
            raise InputError("--lenses latent: needs contextual embeddings; give --store STORE.zarr, made by `extract`")
        return cls(index)

    def top(self, states: Tensor, layers: Sequence[int], k: int) -> TopK:
        """The k nearest contextual embeddings of every state; see `Lens.top`. Scores are cosines, ids are rows."""
        return self.index.top(states.flatten(0, 1), k).reshape(*states.shape[:2], k)

    def score_words(self, states: Tensor, layers: Sequence[int], words: Sequence[WordIds]) -> WordScores:
        """See `WordLens.score_words`: the best row of each word; of equal ones that of the lowest layer."""
        shape = (len(words), *states.shape[:2])
        scores, ranks, contexts = (part.reshape(shape) for part in self.index.best_rows(states.flatten(0, 1), words))
        return WordScores(scores, ranks, self.index.candidates, contextual_layers=contexts)

    def compared(self, states: Tensor, layers: Sequence[int]) -> Tensor:
        """See `VectorLens.compared`: unit states."""
        return normalize(states.to(self.index.device, torch.float32), dim=2, eps=0.0)

    def references(self) -> Mapping[int, References]:
        """See `VectorLens.references`: unit rows of every contextual layer."""
        index = self.index
        return {
            layer: References(index.rows(layer), index.excluded_rows(layer), partial(index.unit_vectors, layer))
            for layer in index.available_layers
        }
