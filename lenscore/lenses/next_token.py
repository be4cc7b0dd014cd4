"""The whole next-token distribution that a lens reads, beside its best candidates: normaliser, entropy, divergence."""

from __future__ import annotations

from collections.abc import Sequence
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


class Expectation(NamedTuple):
    """The mean of values under softmax(logits), over the tokens of the blocks so far.

    Normalisers are kept, so that blocks can be joined without a second pass over them, as in an online softmax.
    """

    log_normalizer: Tensor
    mean: Tensor

    @classmethod
    def of_block(cls, logits: Tensor, values: Tensor) -> Expectation:
        """Over the last dimension; `values` may have more leading dimensions than `logits`."""
        return cls(logits.logsumexp(-1), (logits.softmax(-1) * values).sum(-1))

    def joined(self, other: Expectation | None) -> Expectation:
        """Over the tokens of both."""
        if other is None:
            return self
        both = torch.logaddexp(self.log_normalizer, other.log_normalizer)
        shares = [(part.log_normalizer - both).exp() for part in (self, other)]
        return Expectation(both, shares[0] * self.mean + shares[1] * other.mean)


class NextTokenSums:
    """The numbers of `NextToken`, from logits that come in blocks of tokens."""

    def __init__(self) -> None:
        self._own: Expectation | None = None
        self._last: Expectation | None = None

    def add(self, logits: Tensor, last: Tensor) -> None:
        """Add a block: float32 logits [layers, n, tokens], and [n, tokens] after the last block."""
        self._own = Expectation.of_block(logits, logits).joined(self._own)
        # The difference is small where the distributions are alike, and then so is its rounding error.
        self._last = Expectation.of_block(last, last - logits).joined(self._last)

    @property
    def found(self) -> NextToken:
        """The numbers over all blocks that were added, of which there must be one."""
        own, last = self._own, self._last
        assert own is not None
        assert last is not None
        divergences = last.mean + own.log_normalizer - last.log_normalizer
        return NextToken(own.log_normalizer, own.log_normalizer - own.mean, divergences)
