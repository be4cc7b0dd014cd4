"""How far visual tokens drift inside the LLM: each layer's state against the state with which the token came in.

The cosine of a token's state with its own state at the first analysed layer means something only beside what any two
visual tokens have in common. So each is also compared with the first state of another visual token of the same image:
a shuffled baseline. The partner is of the same image because then it depends on that image alone, not on which images
share a batch or a shard; and tokens of one image are more alike than those of two, which makes the baseline the
stricter one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def partners(name: str, tokens: int) -> npt.NDArray[np.int64]:
    """For each of the visual tokens of an image another one: int64 ``[tokens]``, a pure function of the arguments.

    The tokens are put into a circle in the order of hashes of ``name`` (the image's sha256), and each gets the next
    one: nobody is its own partner, and everybody is somebody's. A single token has no other and gets itself.
    """
    stream = hashlib.shake_256(f"lenscore.drift/partners/{name}".encode()).digest(8 * tokens)
    circle = np.argsort(np.frombuffer(stream, dtype="<u8"), kind="stable")
    found = np.empty(tokens, np.int64)
    found[circle] = np.roll(circle, -1)
    return found


def batch_partners(images: Sequence[tuple[str, int]]) -> npt.NDArray[np.int64]:
    """The `partners` of several images (name, tokens) whose tokens stand one image after the other."""
    starts = np.cumsum([0, *(tokens for _, tokens in images)])
    parts = [start + partners(*image) for start, image in zip(starts, images, strict=False)]
    return np.concatenate([np.empty(0, np.int64), *parts])


def drift_cosines(states: Tensor, norms: Tensor, first: int, partner: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of every state with its own first state and with that of its partner, both float32 [layers, tokens].

    `states` [layers, tokens, dim] in any dtype, multiplied and added up in float32; `norms` float32 [layers, tokens]
    are their lengths; `first` is the place of the first layer; `partner` int64 [tokens]. A token that is its own
    partner has NaN there, and so has whatever is compared with a state of length 0.
    """
    own, shuffled = torch.empty_like(norms), torch.empty_like(norms)
    start, start_norm = states[first].float(), norms[first]
    other, other_norm = start[partner], start_norm[partner]
    for layer, state in enumerate(states):  # one layer at a time: in float32 all of them may not fit
        wide = state.float()
        own[layer] = (wide * start).sum(dim=1) / (norms[layer] * start_norm)
        shuffled[layer] = (wide * other).sum(dim=1) / (norms[layer] * other_norm)
    alone = partner == torch.arange(len(partner), device=partner.device)
    return own, shuffled.masked_fill(alone, torch.nan)
