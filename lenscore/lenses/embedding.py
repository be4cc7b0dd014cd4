"""EmbeddingLens: the input embeddings nearest to a hidden state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.topk import NO_CONTEXTUAL_LAYER, TopK
from lenscore.lenses.references import References
from lenscore.lenses.vocabulary_lens import (
    TOKENS_PER_BLOCK,
    excluded_tokens,
    score_in_vocabulary,
    search_vocabulary,
)
from lenscore.lenses.word_scores import WordIds, WordScores
from lenscore.models.loading import LanguageModel


class EmbeddingLens:
    """Cosine similarity with the rows of the LLM's input embedding matrix (LatentLens, arXiv 2602.00462, section 3).

    `matrix` [tokens, dim] in any float dtype is converted to float32 block by block. Tokens that are not text
    (`excluded_tokens`) and rows of length zero are no candidates.
    """

    name: ClassVar[str] = "embedding"
    needs_store: ClassVar[bool] = False
    ids: ClassVar[Literal["rows", "tokens"]] = "tokens"

    def __init__(self, matrix: Tensor, tokenizer: Any) -> None:
        self._matrix = matrix.detach()
        self._lengths = torch.cat([block.float().norm(dim=1) for block in self._matrix.split(TOKENS_PER_BLOCK)])
        excluded = torch.zeros(len(matrix), dtype=torch.bool, device=matrix.device)
        excluded[excluded_tokens(tokenizer, len(matrix))] = True
        self._excluded = (excluded | (self._lengths == 0)).nonzero().squeeze(1)

    @classmethod
    def from_model(cls, llm: LanguageModel, index: ContextualIndex | None = None) -> EmbeddingLens:
        """The lens over the model's own input embeddings; `index` is not used."""
        return cls(llm.model.get_input_embeddings().weight, llm.tokenizer)

    def top(self, states: Tensor, layers: Sequence[int], k: int) -> TopK:
        """The k nearest tokens of every state; see `Lens.top`. Scores are cosines in -1..1."""
        top = search_vocabulary(
            self._units(states), self._score, self._excluded, len(self._matrix), k, "the embedding lens"
        )
        return top.reshape(*states.shape[:2], k)

    def score_words(self, states: Tensor, layers: Sequence[int], words: Sequence[WordIds]) -> WordScores:
        """See `WordLens.score_words`: the mean of cosines, a product with the mean of the tokens' unit embeddings."""
        tokens = [word[NO_CONTEXTUAL_LAYER] for word in words]
        rows = len(self._matrix)
        found = score_in_vocabulary(
            self._units(states), self._score, self._excluded, rows, tokens, "the embedding lens"
        )
        shape = (len(words), *states.shape[:2])
        return WordScores(found.scores.reshape(shape), found.ranks.reshape(shape), rows - len(self._excluded))

    def compared(self, states: Tensor, layers: Sequence[int]) -> Tensor:
        """See `VectorLens.compared`: unit states."""
        return self._units(states).reshape(states.shape)

    def references(self) -> Mapping[int, References]:
        """See `VectorLens.references`: unit embeddings."""
        return {NO_CONTEXTUAL_LAYER: References(len(self._matrix), self._excluded, self._vectors)}

    def _vectors(self, tokens: Tensor) -> Tensor:
        return self._matrix[tokens].float() / self._lengths[tokens, None]

    def _units(self, states: Tensor) -> Tensor:
        return normalize(states.flatten(0, 1).to(self._matrix.device, torch.float32), dim=1, eps=0.0)

    def _score(self, queries: Tensor, rows: slice) -> Tensor:
        return (queries @ self._matrix[rows].float().T) / self._lengths[rows]
