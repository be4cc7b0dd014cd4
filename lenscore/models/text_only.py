"""Inputs of a model for text without images, and whether the model is causal."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lenscore.models.decoder import number_of_layers, text_config_of
from lenscore.models.float32_blocks import blocks_in_float32, has_16_bit_blocks
from lenscore.models.hidden_states import run_until
from lenscore.models.weights import require_finite

TOKEN_KINDS = ("token_type_ids", "mm_token_type_ids")
"""Inputs of a VLM that mark each token as text (0) or image (1)."""


def text_inputs(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """Keyword arguments of the model for token ids [batch, sequence] of equal length.

    For a VLM every token is marked as text, as its processor does: PaliGemma attends in both directions only then, as
    it was trained. A language model without vision gets only the ids, because there token types have another meaning
    (first or second sentence).
    """
    inputs = {"input_ids": ids}
    if getattr(model.config, "vision_config", None) is not None:
        known = inspect.signature(model.forward).parameters
        inputs |= {name: torch.zeros_like(ids) for name in TOKEN_KINDS if name in known}
    return inputs


def no_text_ids(tokenizer: Any) -> set[int]:
    """The ids of special tokens and of added ones (<image>, <file>)."""
    return set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)


def ordinary_tokens(tokenizer: Any, most: int) -> list[int]:
    """The ids in the middle of a vocabulary that are text: neither special tokens nor added ones (<image>, <file>).

    At its beginning are punctuation (SmolLM2) and runs of spaces (Gemma 3). If all words were added, these are text.
    """
    special, added = set(tokenizer.all_special_ids), tokenizer.added_tokens_decoder
    text = [i for i in range(len(tokenizer)) if i not in special]
    text = [i for i in text if i not in added] or text
    start = max(0, len(text) - most) // 2
    return text[start : start + most]


def is_causal(model: Any, tokens: Sequence[int]) -> bool:
    """Whether a token's hidden state depends only on the tokens up to it, measured on the model.

    The states of the first half of `tokens` (two ids or more) are compared with and without the second half. Raises
    InputError if a state is not finite.
    """
    ids = torch.tensor([list(tokens)], device=model.get_input_embeddings().weight.device)
    if _same_states_without_the_end(model, ids):
        return True
    if not has_16_bit_blocks(model):
        return False
    with blocks_in_float32(model):  # massive activations may amplify the rounding of 16 bits
        return _same_states_without_the_end(model, ids)


def _same_states_without_the_end(model: Any, ids: Tensor) -> bool:
    half = ids.shape[1] // 2
    deepest = number_of_layers(model) - 1
    alone = run_until(model, text_inputs(model, ids[:, :half]), [deepest])[deepest].float()
    within = run_until(model, text_inputs(model, ids), [deepest])[deepest][:, :half].float()
    require_finite(model, alone, within)
    # Rounding errors of bf16 are far smaller; in a bidirectional model the difference is as large as the states.
    return bool(((alone - within).norm(dim=-1) <= 0.05 * alone.norm(dim=-1)).all())


def known_bidirectional(config: Any) -> bool:
    """Whether the configuration states bidirectional attention; it may be silent about it, so see `is_causal`."""
    everywhere = getattr(text_config_of(config), "use_bidirectional_attention", None) in (True, "all")
    return config.model_type == "paligemma" or everywhere
