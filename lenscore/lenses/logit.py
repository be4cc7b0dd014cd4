"""LogitLens: the likeliest next tokens if the model ended at this layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.topk import NO_CONTEXTUAL_LAYER, TopK
from lenscore.lenses.head_output import HeadOutput, UnknownHeadError, head_path
from lenscore.lenses.next_token import NextToken, NextTokenSums
from lenscore.lenses.references import References
from lenscore.lenses.vocabulary_lens import (
    QUERIES_PER_BLOCK,
    excluded_tokens,
    score_in_vocabulary,
    search_vocabulary,
)
from lenscore.lenses.word_scores import WordIds, WordScores
from lenscore.models.loading import LanguageModel
from lenscore.models.text_only import ordinary_tokens
from storage_layouts.errors import InputError


class LogitLens:
    """The final norm, then the LM head, both in float32 (nostalgebraist 2020, "interpreting GPT: the logit lens").

    States are pre-norm (inputs of blocks). Scores are the model's logits, with its scales and its soft cap
    (`head_path`); tokens are ranked before the cap, whose flat ends cause ties in float32. Tokens that are not text
    (`excluded_tokens`), and rows of the head without a logit, are no candidates.
    """

    name: ClassVar[str] = "logit"
    needs_store: ClassVar[bool] = False
    ids: ClassVar[Literal["rows", "tokens"]] = "tokens"

    def __init__(
        self,
        norm: nn.Module,
        head: Tensor,
        bias: Tensor | None,
        tokenizer: Any,
        output: HeadOutput | None = None,
        scale: float = 1.0,
    ) -> None:
        # A float32 copy, because a norm in half precision would round its output.
        self._norm = _alone(norm).float().to(head.device).eval().requires_grad_(False)
        self._head = head.detach()
        self._bias = None if bias is None else bias.detach().float()
        self._output = output or HeadOutput()
        self._scale = scale
        self._excluded = torch.tensor(excluded_tokens(tokenizer, len(head)), dtype=torch.int64, device=head.device)

    @classmethod
    def from_model(cls, llm: LanguageModel, index: ContextualIndex | None = None) -> LogitLens:
        """The lens with the model's norm and head; `index` is not used. Raises InputError if one of them is missing."""
        return cls.for_use(llm, f"--lenses {cls.name}", "leave the lens out")

    @classmethod
    def for_use(cls, llm: LanguageModel, where: str, remedy: str) -> LogitLens:
        """The same for something that needs it, which `where` names in errors, with what to do instead."""
        head = llm.model.get_output_embeddings()
        if head is None:
            raise InputError(f"{where}: no LM head was found in {llm.name}; {remedy}")
        try:
            path = head_path(llm.model, ordinary_tokens(llm.tokenizer, 1)[0])
        except UnknownHeadError as error:
            raise InputError(f"{where}: {error}; {remedy}") from None
        bias = getattr(head, "bias", None)
        bias = None if bias is None else bias[: path.tokens]
        return cls(path.norm, head.weight[: path.tokens], bias, llm.tokenizer, path.output, path.scale)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._head.device

    @torch.inference_mode()
    def logits(self, states: Tensor) -> Tensor:
        """The logits of all tokens, including special ones: float32 [n, tokens] for pre-norm states [n, dim]."""
        return self.differentiable_logits(states)

    def differentiable_logits(self, states: Tensor) -> Tensor:
        """The same, through which gradients flow to the states; norm and head are frozen."""
        return self._output.logits(self._score(self._normed(states), slice(0, len(self._head))))

    @torch.inference_mode()
    def top(self, states: Tensor, layers: Sequence[int], k: int) -> TopK:
        """The k largest logits of every state; see `Lens.top`."""
        return self._best(states, self._score, k)

    @torch.inference_mode()
    def read(self, states: Tensor, layers: Sequence[int], k: int, last: Tensor) -> tuple[TopK, NextToken]:
        """The k largest logits of every state, and the whole distributions; see `NextTokenLens.read`."""
        tokens = max(1, QUERIES_PER_BLOCK // len(layers))
        parts = zip(states.split(tokens, dim=1), last.split(tokens), strict=True)
        tops, found = zip(*(self._read(*part, k) for part in parts), strict=True)
        return TopK.concatenate(tops, dim=1), NextToken.concatenate(found)

    @torch.inference_mode()
    def likeliest(self, states: Tensor, ends: Sequence[int]) -> Tensor:
        """The likeliest next token of every state [n, dim], int64 [n]: a candidate, or one of `ends`, of any kind."""
        scores = self._score(self._normed(states), slice(0, len(self._head)))
        of_ends = scores[:, list(ends)]
        scores.index_fill_(1, self._excluded, -torch.inf)
        scores[:, list(ends)] = of_ends
        return scores.argmax(dim=1)

    @torch.inference_mode()
    def score_words(self, states: Tensor, layers: Sequence[int], words: Sequence[WordIds]) -> WordScores:
        """See `WordLens.score_words`. The mean of several tokens is taken, and words are ranked, before the cap."""
        tokens = [word[NO_CONTEXTUAL_LAYER] for word in words]
        queries, logits = self._normed(states.flatten(0, 1)), self._output.logits
        rows = len(self._head)
        found = score_in_vocabulary(queries, self._score, self._excluded, rows, tokens, "the logit lens", logits)
        shape = (len(words), *states.shape[:2])
        assert found.log_sums is not None
        scores, ranks = logits(found.scores).reshape(shape), found.ranks.reshape(shape)
        return WordScores(scores, ranks, rows - len(self._excluded), found.log_sums.reshape(shape[1:]))

    @torch.inference_mode()
    def compared(self, states: Tensor, layers: Sequence[int]) -> Tensor:
        """See `VectorLens.compared`: outputs of the final norm, as the head gets them."""
        return self._normed(states.flatten(0, 1)).reshape(states.shape)

    def references(self) -> Mapping[int, References]:
        """See `VectorLens.references`: rows of the LM head, without its bias."""
        return {NO_CONTEXTUAL_LAYER: References(len(self._head), self._excluded, lambda ids: self._head[ids].float())}

    def _read(self, states: Tensor, last: Tensor, k: int) -> tuple[TopK, NextToken]:
        last, sums = self._normed(last), NextTokenSums(self._output.logits)

        def score(queries: Tensor, rows: slice) -> Tensor:
            scores = self._score(torch.cat([queries, last]), rows)
            sums.add(scores.unflatten(0, (-1, len(last))))
            return scores[: len(queries)]

        return self._best(states, score, k), sums.found

    def _best(self, states: Tensor, score: Callable[[Tensor, slice], Tensor], k: int) -> TopK:
        queries = self._normed(states.flatten(0, 1))
        top = search_vocabulary(queries, score, self._excluded, len(self._head), k, "the logit lens")
        top = TopK(top.ids, self._output.logits(top.scores), top.contextual_layers)
        return top.reshape(*states.shape[:2], k)

    def _normed(self, states: Tensor) -> Tensor:
        parts = states.split(QUERIES_PER_BLOCK)
        return torch.cat([self._scale * self._norm(part.to(self._head.device, torch.float32)) for part in parts])

    def _score(self, queries: Tensor, rows: slice) -> Tensor:
        logits = queries @ self._head[rows].float().T
        return logits if self._bias is None else logits + self._bias[rows]


def _alone(norm: nn.Module) -> nn.Module:
    """A copy of the norm without the hook by which accelerate moves the inputs of a spread model."""
    norm = copy.deepcopy(norm)
    if hasattr(norm, "_hf_hook"):
        from accelerate.hooks import remove_hook_from_module  # slow to import, and only needed here

        remove_hook_from_module(norm)
    return norm
