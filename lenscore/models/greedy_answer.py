"""The model's own answer: at each step the likeliest next token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig


@torch.inference_mode()
def greedy_answer(model: Any, inputs: dict[str, Tensor], max_new_tokens: int) -> Tensor:
    """The ids [n] that the model generates after `inputs["input_ids"]` [1, length], with the token that ends it.

    `inputs` are keyword arguments of the model, images included; n <= `max_new_tokens`. Settings of the checkpoint that
    change the order of tokens (beams, penalties) do not apply, so each id is the largest logit at its place.
    """
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        pad_token_id=0,  # of a single sequence, which has no padding; otherwise transformers warns
    )
    length = inputs["input_ids"].shape[1]
    ids: Tensor = model.generate(**inputs, generation_config=settings)
    return ids[0, length:]
