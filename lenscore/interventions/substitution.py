"""Substitution: the model runs on with other states in the place of those of visual tokens, and its answer is compared.

The unchanged pass over image, prompt and answer is computed once; each changed one goes on from it at its layer and
position (`RecordedPass`), many at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lenscore.interventions.names import LENS_SUBSTITUTES
from lenscore.interventions.substitutes import Candidates, Ints, Substitutes
from lenscore.lenses.logit import LogitLens
from lenscore.models.changed_states import ChangedStates
from lenscore.models.recorded_pass import RecordedPass, batches_of


@dataclass(frozen=True)
class Target:
    """Visual tokens that are changed together: their numbers in the order of the geometry, ascending."""

    kind: str
    number: int
    tokens: Ints


class Substitution(NamedTuple):
    """One changed pass: the states [m, dim] that replace those of a target. `lens` is "" for one without a lens.

    `words` are the tokens whose probability is followed: that of the lens's best candidate at the target's first token;
    none without a lens.
    """

    target: Target
    lens: str
    substitute: str
    states: Tensor
    words: tuple[int, ...]


class Effect(NamedTuple):
    """What a substitution does to the answer; see `storage_layouts.interventions.EFFECTS`.

    `lead` is by how many nats the answer's tokens lead all others in the changed pass, at the place where it is least;
    NaN if it was not asked for.
    """

    next_divergence: float
    divergence: float
    log_likelihood: float
    word_probability: float
    lead: float

    def measures(self) -> dict[str, float]:
        """The columns of `storage_layouts.interventions.EFFECTS`."""
        return {name: value for name, value in self._asdict().items() if name != "lead"}


class AnsweredPass:
    """The unchanged pass of a model over an image, a prompt and an answer.

    Args:
        recorded: the pass.
        answer: token ids [a] of the answer, which are the last of the sequence.
        positions: of the visual tokens, ascending int64 [n].
        head: computes logits of outputs of the last block.

    Attributes:
        recorded: the pass.
        positions: of the visual tokens.
        predicted: the positions where the answer's tokens are predicted.
        visual_tokens: their number, n.

    """

    def __init__(self, recorded: RecordedPass, answer: Tensor, positions: Ints, head: LogitLens) -> None:
        self.recorded, self.positions, self._head = recorded, positions, head
        self.visual_tokens = len(positions)
        self._answer = answer.to(head.device)
        self.predicted = slice(recorded.length - len(answer) - 1, recorded.length - 1)
        self._unchanged = self._log_probabilities(recorded.states[-1][self.predicted])

    def states(self, layer: int) -> Tensor:
        """The states of the visual tokens at a layer, in the model's dtype [n, dim]."""
        return self.recorded.states[layer][torch.from_numpy(self.positions)]

    def changed_states(self, substitution: Substitution) -> ChangedStates:
        """What a substitution puts into the sequence, for a pass of the model itself."""
        return ChangedStates(torch.from_numpy(self.positions[substitution.target.tokens]), substitution.states)

    def effects(
        self,
        layer: int,
        substitutions: Sequence[Substitution],
        batch_tokens: int,
        progress: Callable[[], None] = lambda: None,
        leads: bool = False,
    ) -> list[Effect]:
        """The effects of substitutions at one layer, in their order; with `leads` also `Effect.lead`.

        `batch_tokens` bounds the positions that run together, which changes results only in their last bits.
        """
        starts = [
            min(self.predicted.start, self.recorded.first_affected(layer, int(self.positions[one.target.tokens[0]])))
            for one in substitutions
        ]
        found: dict[int, Effect] = {}
        for batch in batches_of(starts, self.recorded.length, batch_tokens):
            effects = self._batch([substitutions[i] for i in batch], layer, min(starts[i] for i in batch), leads)
            found |= zip(batch, effects, strict=True)
            progress()
        return [found[i] for i in range(len(substitutions))]

    @torch.inference_mode()
    def _batch(self, batch: Sequence[Substitution], layer: int, start: int, leads: bool) -> list[Effect]:
        states = self.recorded.states[layer][None, start:].repeat(len(batch), 1, 1)
        for row, one in zip(states, batch, strict=True):
            at = torch.from_numpy(self.positions[one.target.tokens] - start)
            row[at.to(row.device)] = one.states.to(row.device, row.dtype)
        outputs = self.recorded.resume(layer, states, start)[
            :, self.predicted.start - start : self.predicted.stop - start
        ]
        return [self.effect(output, one.words, leads) for output, one in zip(outputs, batch, strict=True)]

    def effect(self, output: Tensor, words: tuple[int, ...] = (), leads: bool = False) -> Effect:
        """What other outputs [a, dim] of the last block do to the answer, to the sum of some tokens, and its lead."""
        old, new = self._unchanged, self._log_probabilities(output)
        divergences = (old.exp() * (old - new)).sum(dim=1)
        places = torch.arange(len(self._answer), device=old.device)
        of_answer = new[places, self._answer]
        likelihood = (of_answer - old[places, self._answer]).sum()
        change = lead = torch.tensor(torch.nan)
        if words:
            change = (new[:, list(words)].exp() - old[:, list(words)].exp()).sum(dim=1).mean()
        if leads:
            lead = (
                of_answer - new.index_put((places, self._answer), torch.tensor(-torch.inf).to(new)).amax(dim=1)
            ).min()
        return Effect(*map(float, (divergences[0], divergences.mean(), likelihood, change, lead)))

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
                yield Substitution(target, "", name, substitutes.plain(name, states, target.tokens), ())
                continue
            for lens, candidates in found.items():
                made = substitutes.of_lens(name, lens, candidates, states, target.tokens, item)
                yield Substitution(target, lens, name, made, (int(words[lens][target.tokens[0]]),))
