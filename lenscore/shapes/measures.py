"""Measures of the build on validation scenes: captions, and the three lenses in their simplest form.

This brute force checks the weights; ``lenscore.lenses`` and the pipeline do the same at scale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from lenscore.shapes.chance import generator
from lenscore.shapes.grammar import PROMPT
from lenscore.shapes.rendering import render
from lenscore.shapes.scenes import Scene, sample_scene
from lenscore.shapes.truth import object_aspects, patch_truth
from lenscore.shapes.vision_encoder import GRID

_VISUAL_LAYERS = (0, 1, 2, 4, 5)
_CONTEXTUAL_LAYERS = (1, 2, 4, 5)
_TOP_K = 5
_PER_TOKEN = 20
_BATCH = 20


@torch.no_grad()
def caption_recall(model: Any, processor: Any, count: int) -> dict[str, float]:
    """Returns the shares of objects of validation scenes whose noun and colour are in a greedy caption."""
    scenes = [sample_scene("validation", index) for index in range(count)]
    nouns, colours, objects = 0, 0, 0
    for start in range(0, count, _BATCH):
        batch = scenes[start : start + _BATCH]
        inputs = _inputs(processor, batch)
        output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        texts = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for scene, text in zip(batch, texts, strict=True):
            words = {word.strip(".,:") for word in text.split()}
            for item in scene.objects:
                aspects = object_aspects(item)
                nouns += bool(aspects["noun"] & words)
                colours += bool(aspects["colour"] & words)
                objects += 1
    return {"noun": nouns / objects, "colour": colours / objects}


@torch.no_grad()
def lens_table(model: Any, processor: Any, corpus: Sequence[str], images: int) -> str:
    """Returns a table of LatentLens, EmbeddingLens and LogitLens on patches that an object covers by half or more.

    ``noun@5`` is the percentage of patches with a right noun among the top five words; ``control`` compares the same
    words with a patch of another image; neighbours are percentages of LatentLens neighbours.

    Args:
        model: the LLaVA.
        processor: its processor.
        corpus: texts for contextual embeddings.
        images: number of validation scenes.

    """
    tokenizer, language_model = processor.tokenizer, model.model.language_model
    scenes = [sample_scene("validation", index) for index in range(images)]
    patches, truths = _object_patches(scenes)
    others = truths[len(truths) // 2 :] + truths[: len(truths) // 2]  # half a data set away: another image
    words, references = _references(language_model, tokenizer, corpus)
    states = _visual_states(model, processor, scenes)
    token_words = [token.replace("▁", "") for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    embeddings = F.normalize(model.get_input_embeddings().weight, dim=-1)
    no_word = torch.tensor(tokenizer.all_special_ids)

    def tokens(scores: torch.Tensor) -> list[list[str]]:
        scores[:, no_word] = -torch.inf
        return [[token_words[i] for i in row] for row in scores.topk(_TOP_K).indices.tolist()]

    def line(lens: str, layer: object, top: list[list[str]], neighbours: str = "") -> str:
        right, control = (100 * _share_right(top, nouns) for nouns in (truths, others))
        return f"{lens:<10} {layer:>5} {right:8.1f} {control:8.1f}  {neighbours}".rstrip()

    lines = ["lens       layer   noun@5  control  neighbours by contextual layer"]
    for layer in _VISUAL_LAYERS:
        queries = states[layer][patches]
        unit = F.normalize(queries, dim=-1)
        rows = (unit @ references.T).topk(_TOP_K).indices
        shares = Counter(_CONTEXTUAL_LAYERS[i] for i in (rows.flatten() // len(words)).tolist())
        neighbours = "  ".join(f"{one}: {100 * shares[one] / rows.numel():.0f}" for one in _CONTEXTUAL_LAYERS)
        lines += [
            line("latent", layer, [[words[i % len(words)] for i in row] for row in rows.tolist()], neighbours),
            line("embedding", layer, tokens(unit @ embeddings.T)),
            line("logit", layer, tokens(model.lm_head(language_model.norm(queries)))),
        ]
    rng = generator("chance words")
    lines.append(line("chance", "-", [[rng.choice(words) for _ in range(_TOP_K)] for _ in truths]))
    return "\n".join(lines)


def _inputs(processor: Any, scenes: Sequence[Scene]) -> Any:
    images = [Image.fromarray(render(scene)) for scene in scenes]
    inputs = processor(images=images, text=[f"<image> {PROMPT}"] * len(images), return_tensors="pt")
    inputs.pop("token_type_ids", None)
    return inputs


def _object_patches(scenes: Sequence[Scene]) -> tuple[list[int], list[frozenset[str]]]:
    """Patches that one object covers by half or more, numbered through all scenes, and their right nouns."""
    patches, truths = [], []
    for number, scene in enumerate(scenes):
        for patch in range(GRID * GRID):
            row, column = divmod(patch, GRID)
            truth = patch_truth(scene, (column / GRID, row / GRID, (column + 1) / GRID, (row + 1) / GRID))
            if truth.kind == "object" and truth.share >= 0.5:
                patches.append(number * GRID * GRID + patch)
                truths.append(truth.aspects["noun"])
    return patches, truths


def _visual_states(model: Any, processor: Any, scenes: Sequence[Scene]) -> dict[int, torch.Tensor]:
    """States of all image positions by layer: float32 ``[scenes * 64, hidden]``."""
    parts: dict[int, list[torch.Tensor]] = {layer: [] for layer in _VISUAL_LAYERS}
    for start in range(0, len(scenes), _BATCH):
        inputs = _inputs(processor, scenes[start : start + _BATCH])
        hidden = model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
        is_image = inputs["input_ids"] == model.config.image_token_index
        for layer in _VISUAL_LAYERS:
            parts[layer].append(hidden[layer][is_image])
    return {layer: torch.cat(states) for layer, states in parts.items()}


def _references(language_model: Any, tokenizer: Any, corpus: Sequence[str]) -> tuple[list[str], torch.Tensor]:
    """Words of at most 20 rows per token, and their unit states, one contextual layer after another."""
    seen: Counter[int] = Counter()
    words: list[str] = []
    parts: dict[int, list[torch.Tensor]] = {layer: [] for layer in _CONTEXTUAL_LAYERS}
    for text in corpus:
        encoded = tokenizer(text)
        kept = []
        for position, (token, word) in enumerate(zip(encoded["input_ids"], encoded.word_ids(), strict=True)):
            if word is not None and seen[token] < _PER_TOKEN:
                seen[token] += 1
                kept.append(position)
                span = encoded.word_to_chars(word)
                words.append(text[span.start : span.end].strip())
        if kept:
            ids = torch.tensor([encoded["input_ids"][: kept[-1] + 1]])
            hidden = language_model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
            for layer in _CONTEXTUAL_LAYERS:
                parts[layer].append(hidden[layer][0, kept])
    layers = [torch.cat(parts[layer]) for layer in _CONTEXTUAL_LAYERS]
    return words, F.normalize(torch.cat(layers), dim=-1)


def _share_right(answers: Sequence[Sequence[str]], truths: Sequence[frozenset[str]]) -> float:
    right = [any(word in truth for word in words) for words, truth in zip(answers, truths, strict=True)]
    return sum(right) / len(right)
