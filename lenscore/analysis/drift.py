"""Drift of visual tokens in the LLM: the cosine of a token's state at each layer with its state at the first layer.

As a shuffled baseline, each state is also compared with the first state of another visual token. It is of the same
image, so that the baseline does not depend on batches and shards; it is also the stricter baseline, because tokens of
one image are more similar than those of two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def partners(name: str, tokens: int) -> npt.NDArray[np.int64]:
    """Another visual token of the image for each one: int64 [tokens], a cyclic permutation; a single token gets itself.

    The order of the cycle is a hash of `name` (the image's sha256).
    """
    stream = hashlib.shake_256(f"lenscore.drift/partners/{name}".encode()).digest(8 * tokens)
    circle = np.argsort(np.frombuffer(stream, dtype="<u8"), kind="stable")
    found = np.empty(tokens, np.int64)
    found[circle] = np.roll(circle, -1)
    return found


def batch_partners(images: Sequence[tuple[str, int]]) -> npt.NDArray[np.int64]:
    """The `partners` of several images (name, tokens) with concatenated tokens."""
    starts = np.cumsum([0, *(tokens for _, tokens in images)])
    parts = [start + partners(*image) for start, image in zip(starts, images, strict=False)]
    return np.concatenate([np.empty(0, np.int64), *parts])


def drift_cosines(states: Tensor, norms: Tensor, first: int, partner: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of every state with its own first state and with that of its partner, both float32 [layers, tokens].

    `states` [layers, tokens, dim] in any dtype, multiplied and summed in float32; `norms` float32 [layers, tokens];
    `first` is the index of the first layer; `partner` int64 [tokens]. The result is NaN for a token that is its own
    partner, and for states of length 0.
    """
    own, shuffled = torch.empty_like(norms), torch.empty_like(norms)
    start, start_norm = states[first].float(), norms[first]
    other, other_norm = start[partner], start_norm[partner]
    for layer, state in enumerate(states):  # one layer at a time to save memory
        wide = state.float()
        own[layer] = (wide * start).sum(dim=1) / (norms[layer] * start_norm)
        shuffled[layer] = (wide * other).sum(dim=1) / (norms[layer] * other_norm)
    alone = partner == torch.arange(len(partner), device=partner.device)
    return own, shuffled.masked_fill(alone, torch.nan)
