"""Substitution: the model runs on with other states in the place of those of visual tokens, and its answer is compared.

The unchanged pass over image, prompt and answer is computed once; each changed one goes on from it at its layer and
position (`RecordedPass`), many at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lenscore.interventions.names import LENS_SUBSTITUTES
from lenscore.interventions.substitutes import Candidates, Ints, Substitutes
from lenscore.lenses.logit import LogitLens
from lenscore.models.recorded_pass import RecordedPass


@dataclass(frozen=True)
class Target:
    """Visual tokens whose states are replaced together: their numbers in the order of the geometry, ascending."""

    kind: Literal["patch", "object", "all"]
    number: int
    tokens: Ints


class Substitution(NamedTuple):
    """One changed pass: the states [m, dim] that replace those of a target. `lens` is "" for one without a lens.

    `word` is the token of the lens's best candidate at the target's first token; -1 without a lens.
    """

    target: Target
    lens: str
    substitute: str
    states: Tensor
    word: int


class Effect(NamedTuple):
    """What a substitution does to the answer; see `storage_layouts.interventions.EFFECTS`."""

    next_divergence: float
    divergence: float
    log_likelihood: float
    word_probability: float


class AnsweredPass:
    """The unchanged pass of a model over an image, a prompt and an answer.

    Args:
        recorded: the pass.
        answer: token ids [a] of the answer, which are the last of the sequence.
        positions: of the visual tokens, ascending int64 [n].
        head: computes logits of outputs of the last block.

    """

    def __init__(self, recorded: RecordedPass, answer: Tensor, positions: Ints, head: LogitLens) -> None:
        self._recorded, self._positions, self._head = recorded, positions, head
        self._answer = answer.to(head.device)
        self._before = slice(recorded.length - len(answer) - 1, recorded.length - 1)  # where its tokens are predicted
        self._unchanged = self._log_probabilities(recorded.states[-1][self._before])

    def states(self, layer: int) -> Tensor:
        """The states of the visual tokens at a layer, in the model's dtype [n, dim]."""
        return self._recorded.states[layer][torch.from_numpy(self._positions)]

    def effects(
        self,
        layer: int,
        substitutions: Sequence[Substitution],
        batch_tokens: int,
        progress: Callable[[], None] = lambda: None,
    ) -> list[Effect]:
        """The effects of substitutions at one layer, in their order.

        `batch_tokens` bounds the positions that run together, which changes results only in their last bits.
        """
        firsts = {
            token: self._recorded.first_affected(layer, int(self._positions[token]))
            for token in {int(token) for one in substitutions for token in one.target.tokens}
        }
        starts = [min(firsts[int(token)] for token in one.target.tokens) for one in substitutions]
        order = sorted(range(len(starts)), key=lambda i: -starts[i])
        found: dict[int, Effect] = {}
        while order:
            together = max(1, batch_tokens // (self._recorded.length - starts[order[0]]))
            batch, order = order[:together], order[together:]
            effects = self._batch([substitutions[i] for i in batch], layer, starts[batch[-1]])
            found |= zip(batch, effects, strict=True)
            progress()
        return [found[i] for i in range(len(substitutions))]

    @torch.inference_mode()
    def _batch(self, batch: Sequence[Substitution], layer: int, start: int) -> list[Effect]:
        start = min(start, self._before.start)
        states = self._recorded.states[layer][None, start:].repeat(len(batch), 1, 1)
        for row, one in zip(states, batch, strict=True):
            at = torch.from_numpy(self._positions[one.target.tokens] - start)
            row[at.to(row.device)] = one.states.to(row.device, row.dtype)
        outputs = self._recorded.resume(layer, states, start)[:, self._before.start - start : self._before.stop - start]
        return [self._effect(output, one.word) for output, one in zip(outputs, batch, strict=True)]

    def _effect(self, output: Tensor, word: int) -> Effect:
        old, new = self._unchanged, self._log_probabilities(output)
        divergences = (old.exp() * (old - new)).sum(dim=1)
        places = torch.arange(len(self._answer), device=old.device)
        likelihood = (new - old)[places, self._answer].sum()
        change = (new[:, word].exp() - old[:, word].exp()).mean() if word >= 0 else torch.tensor(torch.nan)
        return Effect(float(divergences[0]), float(divergences.mean()), float(likelihood), float(change))

    def _log_probabilities(self, outputs: Tensor) -> Tensor:
        """float64 [a, tokens]: differences of small changes would be lost in float32."""
        return self._head.logits(outputs).double().log_softmax(dim=1)


def substitutions_of(
    targets: Sequence[Target],
    names: Sequence[str],
    states: Tensor,
    found: Mapping[str, Candidates],
    substitutes: Substitutes,
    item: str,
) -> Iterator[Substitution]:
    """All substitutions at one layer.

    Args:
        targets: what is replaced.
        names: of the substitutes.
        states: of all visual tokens of the image at the layer [n, dim].
        found: the candidates of the lenses there.
        substitutes: makes the states.
        item: names image and layer in the hashes of random controls.

    """
    words = {lens: substitutes.words(lens, candidates) for lens, candidates in found.items()}
    for target in targets:
        for name in names:
            if name not in LENS_SUBSTITUTES:
                yield Substitution(target, "", name, substitutes.plain(name, states, target.tokens), -1)
                continue
            for lens, candidates in found.items():
                made = substitutes.of_lens(name, lens, candidates, states, target.tokens, item)
                yield Substitution(target, lens, name, made, int(words[lens][target.tokens[0]]))
