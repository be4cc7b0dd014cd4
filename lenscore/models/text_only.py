"""How a model is given nothing but text, and whether it reads it in one direction only."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lenscore.models.decoder import number_of_layers, text_config_of
from lenscore.models.finite import why_not_finite
from lenscore.models.hidden_states import run_until
from storage_layouts.errors import InputError

TOKEN_KINDS = ("token_type_ids", "mm_token_type_ids")
"""Inputs by which a VLM's processor says of each token whether it is text (0) or image (1)."""


def text_inputs(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """What the model is to be called with to read token ids [batch, sequence], all of equal length.

    A VLM is told that every token is text, as its own processor tells it: PaliGemma then reads a prompt in both
    directions, as it was trained to, and in one direction only if nothing is said. A language model without vision
    gets the ids alone: there token types, where known, mean something else (first or second sentence).
    """
    inputs = {"input_ids": ids}
    if getattr(model.config, "vision_config", None) is not None:
        known = inspect.signature(model.forward).parameters
        inputs |= {name: torch.zeros_like(ids) for name in TOKEN_KINDS if name in known}
    return inputs


def is_causal(model: Any, tokens: Sequence[int]) -> bool:
    """Does a token's hidden state depend on the tokens up to it alone? Tried on the model, not read off its config.

    `tokens` are at least two token ids. The state of the first half is compared with and without the second half.
    Raises InputError if a state is not finite, which would compare with nothing.
    """
    ids = torch.tensor([list(tokens)], device=model.get_input_embeddings().weight.device)
    half = ids.shape[1] // 2
    deepest = number_of_layers(model) - 1
    alone = run_until(model, text_inputs(model, ids[:, :half]), [deepest])[deepest].float()
    within = run_until(model, text_inputs(model, ids), [deepest])[deepest][:, :half].float()
    if not (alone.isfinite().all() and within.isfinite().all()):
        raise InputError(f"--model {model.name_or_path}: hidden states are not finite: {why_not_finite(model)}")
    # Rounding of bf16 stays far below this; a bidirectional model moves states by their own size.
    return bool(((alone - within).norm(dim=-1) <= 0.05 * alone.norm(dim=-1)).all())


def known_bidirectional(config: Any) -> bool:
    """Does the configuration say that a token's state depends on later tokens? What it hides, `is_causal` finds out."""
    everywhere = getattr(text_config_of(config), "use_bidirectional_attention", None) in (True, "all")
    return config.model_type == "paligemma" or everywhere
