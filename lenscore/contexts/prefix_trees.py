"""Short sentences packed into prefix trees, so that a beginning that several of them share is computed once.

A tree is one sequence of `TREE` tokens: the nodes of a trie in depth-first order. Every token stands at its position in
its sentence and sees its own beginning alone, which an attention mask says. In a causal model its states are then those
of the sentence by itself (tree attention, as speculative decoders use it: SpecInfer, arXiv 2305.09781).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lenscore.models.decoder import number_of_layers
from lenscore.models.hidden_states import run_until
from lenscore.models.text_only import text_inputs

TREE = 64
"""Tokens of a tree: long enough to hold many phrases, short enough that their attention to each other costs little."""

LONGEST = TREE // 2
"""Sentences above this length are not packed: a tree has no room for two of them."""


@dataclass(frozen=True)
class PrefixTrees:
    """Sentences as trees; all arrays are int64.

    `ids` and `positions` [trees, TREE]; what a tree has no token for repeats its first one and sees itself alone.
    `ends` [trees, TREE]: the token at place i of a tree is seen by the places i to ends[i] - 1.
    `places` [sentences, width]: where the tokens of a sentence are, counted through all trees.
    """

    ids: np.ndarray
    positions: np.ndarray
    ends: np.ndarray
    places: np.ndarray


def pack(tokens: np.ndarray, lengths: np.ndarray) -> PrefixTrees:
    """Trees of sentences: `tokens` int64 [sentences, width], from `lengths` on -1; 1 <= lengths <= `LONGEST`.

    The trees depend on the set of sentences, not on their order.
    """
    order = np.lexsort(tokens.T[::-1])
    ordered = tokens[order]
    same = (ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0)
    shared = np.concatenate([[0], np.logical_and.accumulate(same, axis=1).sum(axis=1)])
    # All trees but the last hold more than TREE - LONGEST tokens.
    most = int(lengths.sum()) // (TREE - LONGEST) + 1
    ids, positions = np.full(most * TREE, -1), np.zeros(most * TREE, np.int64)
    ends = np.tile(np.arange(1, TREE + 1), most)
    places = np.zeros(tokens.shape, np.int64)
    numbers = np.arange(most * TREE)
    begin, free, depth = 0, 0, 0  # of the present tree: its first place, its first free one; and the last sentence
    path = np.zeros(tokens.shape[1], np.int64)
    for sentence, length, common in zip(order.tolist(), lengths[order].tolist(), shared.tolist(), strict=True):
        if free + length - common > begin + TREE:
            ends[path[:depth]] = free - begin
            begin, common = begin + TREE, 0
            free = begin
        else:
            ends[path[common:depth]] = free - begin
        stop = free + length - common
        path[common:length] = numbers[free:stop]
        ids[free:stop] = tokens[sentence, common:length]
        positions[free:stop] = numbers[common:length]
        places[sentence, :length] = path[:length]
        free, depth = stop, length
    ends[path[:depth]] = free - begin
    used = slice(0, begin + TREE)
    trees = ids[used].reshape(-1, TREE)
    trees = np.where(trees < 0, trees[:, :1], trees)
    return PrefixTrees(trees, positions[used].reshape(-1, TREE), ends[used].reshape(-1, TREE), places)


def model_inputs(ids: Tensor, positions: Tensor, ends: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """What a model is called with for trees [n, TREE]; `dtype` is that of its states."""
    place = torch.arange(ids.shape[1], device=ids.device)
    sees = (place <= place[:, None]) & (place[:, None] < ends[:, None, :])
    hidden = torch.zeros(sees.shape, dtype=dtype, device=ids.device).masked_fill_(~sees, torch.finfo(dtype).min)
    return {"input_ids": ids, "position_ids": positions, "attention_mask": hidden[:, None]}


def understands_trees(model: Any, tokens: Sequence[int]) -> bool:
    """Does a model give the tokens of a tree the states that they have in their sentences? Tried on the model.

    `tokens` are ids of ordinary tokens. Models with a recurrent state, a short window of attention or positions of
    their own do not.
    """
    embeddings = model.get_input_embeddings().weight
    drawn = np.resize(np.asarray(tokens, np.int64), 3 * LONGEST)
    sentences = np.full((4, LONGEST), -1)
    lengths = np.array([LONGEST, LONGEST // 2, LONGEST // 2 + 1, 3])
    for row, length in enumerate(lengths):
        sentences[row, :length] = drawn[row * (LONGEST // 2) :][:length]
    sentences[:, :2] = drawn[:2]  # all begin alike, and two of them are one tree deep inside
    sentences[2, :5] = sentences[1, :5]
    trees = pack(sentences, lengths)
    deepest = number_of_layers(model) - 1
    ids, positions, ends = (torch.from_numpy(p).to(embeddings.device) for p in (trees.ids, trees.positions, trees.ends))
    try:
        inputs = model_inputs(ids, positions, ends, embeddings.dtype)
        packed = run_until(model, inputs, [deepest])[deepest].flatten(0, 1)
    except Exception:  # whatever a model raises that takes no such mask
        return False
    # Rounding stays far below this; who sees other tokens, or stands elsewhere, is off by far more.
    tolerance = 1e-3 if embeddings.dtype == torch.float32 else 0.05
    for sentence, length, places in zip(sentences, lengths, trees.places, strict=True):
        whole = torch.from_numpy(sentence[None, :length]).to(embeddings.device)
        alone = run_until(model, text_inputs(model, whole), [deepest])[deepest][0].float()
        within = packed[torch.from_numpy(places[:length]).to(packed.device)].float()
        if not bool(((alone - within).norm(dim=-1) <= tolerance * alone.norm(dim=-1)).all()):
            return False
    return True
