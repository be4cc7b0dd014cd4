"""What lenses lose against the model: cross entropy with the text that follows, and divergence from the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lenscore.lenses.logit import LogitLens
from lenscore.tuning.translator_training import TOKENS_AT_ONCE


@dataclass
class Evaluation:
    """Sums over tokens, float64, of one lens at one layer.

    `cross_entropies`: - log p of the next token of the text, over the `predicted` tokens that have one. `divergences`:
    KL(p_final || p) over all `tokens`.
    """

    cross_entropies: float = 0.0
    divergences: float = 0.0
    predicted: int = 0
    tokens: int = 0

    @property
    def cross_entropy(self) -> float:
        """Mean, in nats per token."""
        return self.cross_entropies / self.predicted

    @property
    def divergence(self) -> float:
        """Mean, in nats per token."""
        return self.divergences / self.tokens


@dataclass
class Evaluations:
    """Of several states of the same tokens under one final norm and head, each named; "final" is the model itself."""

    lens: LogitLens
    found: dict[str, Evaluation] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, ids: Tensor, states: Mapping[str, Tensor], last: Tensor) -> None:
        """Add sequences.

        Args:
            ids: int64 [sequences, length].
            states: by name [sequences, length, dim], as they go into the final norm.
            last: outputs of the last block, of the same shape.

        """
        following = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -1)], dim=1).flatten()
        for first in range(0, len(following), TOKENS_AT_ONCE):
            some = slice(first, first + TOKENS_AT_ONCE)
            target = self._log_probabilities(last, some)
            p_final = target.exp()
            entropy = torch.dot(p_final.flatten(), target.flatten())
            labels = following[some].to(target.device)
            self._add("final", target, labels, 0.0)
            for name, state in states.items():
                log_p = self._log_probabilities(state, some)
                self._add(name, log_p, labels, float(entropy - torch.dot(p_final.flatten(), log_p.flatten())))

    def _log_probabilities(self, states: Tensor, some: slice) -> Tensor:
        return self.lens.differentiable_logits(states.flatten(0, 1)[some]).log_softmax(-1)

    def _add(self, name: str, log_p: Tensor, labels: Tensor, divergence: float) -> None:
        has_label = labels >= 0
        picked = log_p[has_label].gather(1, labels[has_label][:, None])
        one = self.found.setdefault(name, Evaluation())
        one.cross_entropies -= float(picked.double().sum())
        one.divergences += divergence
        one.predicted += int(has_label.sum())
        one.tokens += len(labels)
