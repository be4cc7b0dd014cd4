"""Attention knockout: attention to chosen visual tokens is blocked in a window of layers, and the answer is compared.

As in Geva et al. (arXiv 2304.14767) for text and Neo et al. (arXiv 2410.07149) for visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch

from lenscore.interventions.substitution import AnsweredPass, Effect, Target
from lenscore.models.recorded_pass import batches_of

WHOLE_MODEL = "all"


class Window(NamedTuple):
    """Layers in which attention is blocked: `layers` of them from `first` on."""

    first: int
    layers: int


class Knockout(NamedTuple):
    """One changed pass. `source` is one of `KNOCKOUT_FROM`: the positions that do not attend to the target."""

    target: Target
    source: str
    window: Window


def windows_of(names: Sequence[str], step: int, depth: int) -> list[Window]:
    """The windows of each size, numbers or `WHOLE_MODEL`, that begin at every `step`-th layer and fit the model."""
    found = []
    for name in names:
        size = depth if name == WHOLE_MODEL else min(int(name), depth)
        found += [Window(first, size) for first in range(0, depth - size + 1, step)]
    return list(dict.fromkeys(found))


def knockouts_of(targets: Sequence[Target], sources: Sequence[str], windows: Sequence[Window]) -> Iterator[Knockout]:
    """All knockouts of an image, in the order of windows."""
    return (Knockout(target, source, window) for window in windows for source in sources for target in targets)


def knockout_effects(
    passed: AnsweredPass,
    knockouts: Sequence[Knockout],
    batch_tokens: int,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Knockout, Effect]]:
    """The effects of knockouts, in their order; those of one window and source run together.

    `batch_tokens` bounds the positions that run together, which changes results only in their last bits.
    """
    for _, some in groupby(knockouts, lambda one: (one.window, one.source)):
        same = list(some)
        starts = [_start(passed, one) for one in same]
        found: dict[int, Effect] = {}
        for batch in batches_of(starts, passed.recorded.length, batch_tokens):
            start = min(starts[i] for i in batch)
            found |= zip(batch, _effects(passed, [same[i] for i in batch], start), strict=True)
            progress()
        yield from ((one, found[i]) for i, one in enumerate(same))


def _start(passed: AnsweredPass, one: Knockout) -> int:
    """The first position whose states depend on what is blocked."""
    keys = passed.positions[one.target.tokens]
    first = passed.predicted.start if one.source == "answer" else int(keys[0])
    return min(passed.recorded.first_affected(one.window.first, first), passed.predicted.start)


@torch.inference_mode()
def _effects(passed: AnsweredPass, batch: Sequence[Knockout], start: int) -> list[Effect]:
    recorded, predicted = passed.recorded, passed.predicted
    first, layers = batch[0].window
    states = recorded.states[first][None, start:].repeat(len(batch), 1, 1)
    blocked = torch.zeros(len(batch), recorded.length - start, recorded.length, dtype=torch.bool)
    for rows, one in zip(blocked, batch, strict=True):
        keys = torch.from_numpy(passed.positions[one.target.tokens])
        own = keys[keys >= start]
        if one.source == "answer":  # each of its positions still attends to itself, which may be a visual token
            rows[predicted.start - start :, keys] = True
            rows[own - start, own] = False
        else:
            rows[:, keys] = True
            rows[own - start] = False
    outputs = recorded.resume(first, states, start, blocked.to(states.device), layers)
    return [passed.effect(output) for output in outputs[:, predicted.start - start : predicted.stop - start]]
