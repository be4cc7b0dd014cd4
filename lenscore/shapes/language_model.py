"""The language model: a small Llama trained from scratch on text alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from lenscore.shapes.chance import generator
from lenscore.shapes.documents import MOST_OBJECTS, Segment, curriculum, document, training_scenes
from lenscore.shapes.stage_trainer import Rates, Trainer
from lenscore.shapes.tokenizer import scene_word_ids

_RATES = Rates(muon=3e-3, adamw=3e-3, weight_decay=0.01)
ANSWER_WEIGHT = 3.0  # loss weight of nouns and attributes after the listing, relative to other words
_STEPS_SORTED_TOGETHER = 16


@dataclass(frozen=True)
class LanguageModelPlan:
    """Sizes and length of the training."""

    hidden: int = 128
    layers: int = 6
    head_size: int = 32
    steps: int = 900
    batch: int = 32
    longest: int = 160


def new_language_model(tokenizer: Any, plan: LanguageModelPlan, seed: int) -> Any:
    """Returns an untrained Llama for this tokenizer.

    Three choices differ from Llama's defaults; without them so small a model does not learn in minutes to use its
    context: large embeddings (0.05 instead of 0.02), a rope base for texts of a hundred tokens (500), and orthogonal
    value and output projections in the middle layers.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.hidden,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.hidden // plan.head_size,
        intermediate_size=plan.hidden * 8 // 3 // 32 * 32,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.05,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    gain = math.sqrt(0.7)
    for layer in (plan.layers // 2 - 1, plan.layers // 2):
        attention = model.model.layers[layer].self_attn
        for projection in (attention.v_proj, attention.o_proj):
            torch.nn.init.orthogonal_(projection.weight, gain=gain)
    return model


def train_language_model(model: Any, tokenizer: Any, plan: LanguageModelPlan, seed: int) -> list[float]:
    """Train on documents about training scenes, in place. Returns the loss of every step."""
    model.set_attn_implementation("eager")  # the fastest on a CPU for sequences this short
    trainer = Trainer("language model", [model], _RATES, plan.steps)
    model.train()
    for tokens, weights in _batches(tokenizer, plan, seed):
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        trainer.step(weighted_cross_entropy(logits, tokens[:, 1:], weights[:, 1:]))
    model.eval()
    return trainer.losses


def weighted_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Returns the weighted mean cross-entropy of ``[batch, length, vocabulary]`` logits."""
    each = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return (each * weights.flatten()).sum() / weights.sum()


def _batches(tokenizer: Any, plan: LanguageModelPlan, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields tokens (int64) and loss weights (float32) of each step, ``[batch, length]``, padded on the right.

    Documents of similar length share a batch, which halves the padding.
    """
    rng = generator("language model", seed)
    answers = torch.ones(len(tokenizer))
    answers[scene_word_ids(tokenizer)] = ANSWER_WEIGHT
    scenes = {most: training_scenes(seed, most) for most in range(1, MOST_OBJECTS + 1)}
    pad = torch.nn.utils.rnn.pad_sequence
    for first_step in range(0, plan.steps, _STEPS_SORTED_TOGETHER):
        steps = min(_STEPS_SORTED_TOGETHER, plan.steps - first_step)
        pool = scenes[curriculum(first_step / plan.steps)]
        documents = [document(next(pool), rng) for _ in range(plan.batch * steps)]
        rows = sorted(_encode(documents, tokenizer, answers), key=lambda row: len(row[0]))
        starts = list(range(0, len(rows), plan.batch))
        rng.shuffle(starts)
        for start in starts:
            batch = rows[start : start + plan.batch]
            yield (
                pad([ids[: plan.longest] for ids, _ in batch], True, tokenizer.pad_token_id),
                pad([weights[: plan.longest] for _, weights in batch], True),
            )


def _encode(
    documents: list[list[Segment]], tokenizer: Any, answers: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and loss weights of each document, with begin and end tokens."""
    texts = [segment.text for segments in documents for segment in segments]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    rows = []
    for segments in documents:
        ids, weights = [torch.tensor([tokenizer.bos_token_id])], [torch.zeros(1)]
        for segment in segments:
            piece = torch.tensor(next(encoded))
            ids.append(piece)
            # In a listing a noun is random, not an answer.
            weights.append(segment.weight * (answers[piece] if segment.weight == 1 else torch.ones(len(piece))))
        ids.append(torch.tensor([tokenizer.eos_token_id]))
        weights.append(torch.ones(1))
        rows.append((torch.cat(ids), torch.cat(weights)))
    return rows
