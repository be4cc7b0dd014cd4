"""The whole next-token distribution that a lens reads, beside its best candidates: normaliser, entropy, divergence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from lenscore.index.topk import TopK
from lenscore.lenses.lens import Lens


class NextToken(NamedTuple):
    """Numbers of the distributions p = softmax(logits) over all tokens, special ones too; float32 [layers, n], in nats.

    Attributes:
        log_normalizers: log sum exp of the logits; the probability of a candidate, whose score is its logit, is
            exp(score - log_normalizer).
        entropies: - sum p log p.
        divergences: KL(final || layer) = sum p_final (log p_final - log p), where p_final is what the lens reads after
            the last block, as in the loss of arXiv 2303.08112. Rounding may leave some 1e-6 below 0.

    """

    log_normalizers: Tensor
    entropies: Tensor
    divergences: Tensor

    @staticmethod
    def concatenate(parts: Sequence[NextToken]) -> NextToken:
        """The tokens of all parts, one after the other."""
        return NextToken(*(torch.cat(part, dim=1) for part in zip(*parts, strict=True)))


@runtime_checkable
class NextTokenLens(Lens, Protocol):
    """A lens whose scores are logits of the next token."""

    def read(self, states: Tensor, layers: Sequence[int], k: int, last: Tensor) -> tuple[TopK, NextToken]:
        """What `Lens.top` returns, and the whole distributions from the same pass over the vocabulary.

        `last` [n, dim] are the outputs of the last block (before the final norm) at the n tokens of `states`.
        """
        ...


def reads_next_token(lens: type[Lens]) -> bool:
    """Whether a lens is a `NextTokenLens`."""
    return hasattr(lens, NextTokenLens.read.__name__)


IN_CACHE = 1 << 17
"""Logits that a CPU core works on at a time: passes over more take three times as long, most of it for new memory."""


class NextTokenSums:
    """The numbers of `NextToken`, from outputs of a head that come in blocks of tokens; `logits` makes logits of them.

    Sums are kept with their normalisers, so that blocks can be joined without a second pass, as in an online softmax.
    All are float32 [layers + 1, n]; the last of the layers is the state after the last block.
    """

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        self._logits = logits
        self._log_normalizers: Tensor | None = None
        self._means = self._final_means = torch.empty(0)

    def add(self, outputs: Tensor) -> None:
        """Add a block: float32 outputs of the head [layers + 1, n, tokens]."""
        layers, count, tokens = outputs.shape
        size = max(1, IN_CACHE // (layers * tokens)) if outputs.device.type == "cpu" else count
        parts = zip(*(_sums(self._logits(part)) for part in outputs.split(size, dim=1)), strict=True)
        self._join(*(torch.cat(part, dim=1) for part in parts))

    def _join(self, log_normalizers: Tensor, means: Tensor, final_means: Tensor) -> None:
        if self._log_normalizers is None:
            self._log_normalizers, self._means, self._final_means = log_normalizers, means, final_means
            return
        both = torch.logaddexp(self._log_normalizers, log_normalizers)
        mine, new = (self._log_normalizers - both).exp(), (log_normalizers - both).exp()
        self._means = mine * self._means + new * means
        self._final_means = mine[-1] * self._final_means + new[-1] * final_means
        self._log_normalizers = both

    @property
    def found(self) -> NextToken:
        """The numbers over all blocks that were added, of which there must be one."""
        assert self._log_normalizers is not None
        surprise = self._log_normalizers - self._final_means  # cross entropies with the final distribution
        entropies = self._log_normalizers - self._means
        return NextToken(self._log_normalizers[:-1], entropies[:-1], (surprise - surprise[-1])[:-1])


def _sums(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a block [layers + 1, n, tokens], which is overwritten: normalisers, means of the logits under them and under
    that of the last layer.
    """
    largest = logits.amax(-1, keepdim=True)
    logits -= largest  # so that rounding is small where probabilities are large
    weights = logits.exp()
    sums = weights.sum(-1)
    # As products of matrices they need no memory for the products.
    means = torch.einsum("lnt,lnt->ln", weights, logits) / sums
    final_means = torch.einsum("nt,lnt->ln", weights[-1], logits) / sums[-1]
    largest = largest.squeeze(-1)
    return largest + sums.log(), largest + means, largest + final_means
