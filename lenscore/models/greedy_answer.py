"""The model's own answer: at each step the likeliest next token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList


@torch.inference_mode()
def greedy_answer(model: Any, inputs: dict[str, Tensor], max_new_tokens: int) -> Tensor:
    """The ids [n] that the model generates after `inputs["input_ids"]` [1, length], with the token that ends it.

    `inputs` are keyword arguments of the model, images included; n <= `max_new_tokens`. Of the checkpoint's settings
    only the tokens that end an answer apply, so each id is the largest logit at its place, computed with the cache of
    the tokens before. Tokens that stand for images are never generated: there is no image for them.
    """
    (answer,) = greedy_answers(model, inputs, max_new_tokens)
    return answer


@torch.inference_mode()
def greedy_answers(
    model: Any, inputs: dict[str, Tensor], max_new_tokens: int, changes: Sequence[LogitsProcessor] = ()
) -> list[Tensor]:
    """The same for each of a batch of sequences of equal length, without padding; `changes` are made to the logits."""
    own = model.generation_config
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=own.eos_token_id,
        suppress_tokens=placeholders(model.config) or None,
        pad_token_id=0,  # behind the end of an answer; otherwise transformers warns
    )
    length = inputs["input_ids"].shape[1]
    model.generation_config = settings  # transformers fills what is not set here from the model's
    try:
        answers = model.generate(**inputs, generation_config=settings, logits_processor=LogitsProcessorList(changes))
        ids: Tensor = answers[:, length:]
    finally:
        model.generation_config = own
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ended = torch.stack([ids == end for end in ends if end is not None] or [torch.zeros_like(ids, dtype=torch.bool)])
    return [
        answer[: int(places[0]) + 1] if len(places := at.nonzero()) else answer
        for answer, at in zip(ids, ended.any(dim=0), strict=True)
    ]


def followed_by(model: Any, inputs: dict[str, Tensor], answer: Tensor) -> dict[str, Tensor]:
    """Inputs of one sequence [1, length], followed by the ids [n] of an answer, as the model was trained."""
    # PaliGemma's type 1 is text that sees what is before it; elsewhere 0 is text, and 1 an image.
    kind = torch.full_like(answer, int(model.config.model_type == "paligemma"))
    follows = {"input_ids": answer, "attention_mask": torch.ones_like(answer), "token_type_ids": kind}
    shape = inputs["input_ids"].shape
    return {
        name: torch.cat([value, follows.get(name, torch.zeros_like(answer))[None].to(value.dtype)], dim=1)
        if value.shape == shape
        else value
        for name, value in inputs.items()
    }


def placeholders(config: Any) -> list[int]:
    """The ids of tokens that a configuration names as standing for images, videos or sound, or around them."""
    named = (value for name, value in config.to_dict().items() if _PLACEHOLDER.fullmatch(name))
    ids = [one for value in named for one in (value if isinstance(value, list) else [value])]
    ids.append(getattr(config, "image_token_id", None))  # a property of some
    return sorted({one for one in ids if isinstance(one, int) and one >= 0})


_PLACEHOLDER = re.compile(r"\w*(image|img|boi|eoi|video|frame|audio|vision|visual)\w*_(token|patch)_(id|ids|index)")
