"""What the build measures at its end, on validation scenes: captions, and the three lenses in their plainest form.

This brute force is a check of the weights, not the product: ``lenscore.lenses`` and the pipeline do the same at scale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
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

VISUAL_LAYERS = (0, 1, 2, 4, 5)
CONTEXTUAL_LAYERS = (1, 2, 4, 5)
_TOP_K = 5
_PER_TOKEN = 20
_BATCH = 20


@dataclass(frozen=True)
class LensMeasure:
    """Shares (0..1) of object patches with a right noun among the top five words of one lens at one layer.

    ``control`` scores the same words against the truth of a patch of another image. ``neighbours`` is the share
    of LatentLens neighbours by contextual layer (empty for the other lenses).
    """

    lens: str
    layer: int
    noun: float
    control: float
    neighbours: dict[int, float]


@torch.no_grad()
def caption_recall(model: Any, processor: Any, count: int) -> dict[str, float]:
    """Shares of objects of validation scenes whose noun (colour) a greedy caption names."""
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
def measure_lenses(model: Any, processor: Any, corpus: Sequence[str], images: int) -> list[LensMeasure]:
    """LatentLens, EmbeddingLens and LogitLens at every visual layer, on patches that an object covers by half."""
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

    measures = []
    for layer in VISUAL_LAYERS:
        queries = states[layer][patches]
        unit = F.normalize(queries, dim=-1)
        rows = (unit @ references.T).topk(_TOP_K).indices
        shares = Counter(CONTEXTUAL_LAYERS[i] for i in (rows.flatten() // len(words)).tolist())
        neighbours = {layer: shares[layer] / rows.numel() for layer in CONTEXTUAL_LAYERS}
        answers: dict[str, list[list[str]]] = {
            "latent": [[words[i % len(words)] for i in row] for row in rows.tolist()],
            "embedding": tokens(unit @ embeddings.T),
            "logit": tokens(model.lm_head(language_model.norm(queries))),
        }
        for lens, top in answers.items():
            right, control = _share_right(top, truths), _share_right(top, others)
            measures.append(LensMeasure(lens, layer, right, control, neighbours if lens == "latent" else {}))
    rng = generator("chance words")
    chance = [[rng.choice(words) for _ in range(_TOP_K)] for _ in truths]
    measures.append(LensMeasure("chance", -1, _share_right(chance, truths), _share_right(chance, others), {}))
    return measures


def format_measures(measures: Sequence[LensMeasure]) -> str:
    """A plain table, percentages."""
    lines = ["lens       layer   noun@5  control  neighbours by contextual layer"]
    for m in measures:
        layer = str(m.layer) if m.layer >= 0 else "-"
        shares = "  ".join(f"{layer}: {100 * share:.0f}" for layer, share in m.neighbours.items())
        lines.append(f"{m.lens:<10} {layer:>5} {100 * m.noun:8.1f} {100 * m.control:8.1f}  {shares}".rstrip())
    return "\n".join(lines)


def _inputs(processor: Any, scenes: Sequence[Scene]) -> Any:
    images = [Image.fromarray(render(scene)) for scene in scenes]
    inputs = processor(images=images, text=[f"<image> {PROMPT}"] * len(images), return_tensors="pt")
    inputs.pop("token_type_ids", None)
    return inputs


def _object_patches(scenes: Sequence[Scene]) -> tuple[list[int], list[frozenset[str]]]:
    """Patches that one object covers by half or more, counted through all scenes, and their right nouns."""
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
    parts: dict[int, list[torch.Tensor]] = {layer: [] for layer in VISUAL_LAYERS}
    for start in range(0, len(scenes), _BATCH):
        inputs = _inputs(processor, scenes[start : start + _BATCH])
        hidden = model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
        is_image = inputs["input_ids"] == model.config.image_token_index
        for layer in VISUAL_LAYERS:
            parts[layer].append(hidden[layer][is_image])
    return {layer: torch.cat(states) for layer, states in parts.items()}


def _references(language_model: Any, tokenizer: Any, corpus: Sequence[str]) -> tuple[list[str], torch.Tensor]:
    """Words of at most 20 rows a token, and their unit states, one contextual layer after another."""
    seen: Counter[int] = Counter()
    words: list[str] = []
    parts: dict[int, list[torch.Tensor]] = {layer: [] for layer in CONTEXTUAL_LAYERS}
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
            for layer in CONTEXTUAL_LAYERS:
                parts[layer].append(hidden[layer][0, kept])
    layers = [torch.cat(parts[layer]) for layer in CONTEXTUAL_LAYERS]
    return words, F.normalize(torch.cat(layers), dim=-1)


def _share_right(answers: Sequence[Sequence[str]], truths: Sequence[frozenset[str]]) -> float:
    right = [any(word in truth for word in words) for words, truth in zip(answers, truths, strict=True)]
    return sum(right) / len(right)
