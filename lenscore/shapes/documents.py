"""Random texts to train the language model on, in segments with a loss weight.

The language model is frozen when it receives visual tokens later, so it must learn now to *use* its context. Most
documents therefore list the facts of a scene and then describe it. The listing cannot be predicted and has a small
weight in the loss; the description has full weight.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from lenscore.shapes.chance import generator
from lenscore.shapes.grammar import PROMPT, caption, listing, question
from lenscore.shapes.scenes import Scene, sample_scene
from lenscore.shapes.unrelated import unrelated_sentence

_LISTING_WEIGHT = 0.1
_UNRELATED_SHARE = 0.12
_QUESTIONS_SHARE = 0.5
_LISTING_LAST_SHARE = 0.3
MOST_OBJECTS = 3


@dataclass(frozen=True)
class Segment:
    """A part of a document and the loss weight of its tokens."""

    text: str
    weight: float


def document(scene: Scene, rng: random.Random) -> list[Segment]:
    """Returns a listing of the scene with descriptions and questions, or sometimes unrelated sentences."""
    if rng.random() < _UNRELATED_SHARE:
        sentences = [unrelated_sentence(rng) for _ in range(rng.randint(1, 3))]
        return [Segment(" ".join(sentences), 1.0)]
    segments = [Segment(f"{PROMPT} {caption(scene, rng)}", 1.0) for _ in range(rng.randint(1, 3))]
    if rng.random() < _QUESTIONS_SHARE:
        questions = [question(scene, rng) for _ in range(rng.randint(1, 3))]
        segments.append(Segment(" ".join(questions), 1.0))
    facts = Segment(listing(scene, rng), _LISTING_WEIGHT)
    if rng.random() < _LISTING_LAST_SHARE:
        return [*segments, facts]
    return [facts, *segments]


def training_scenes(seed: int, most_objects: int = MOST_OBJECTS) -> Iterator[Scene]:
    """Yields scenes of the training split with at most this many objects, without end."""
    for index in itertools.count():
        scene = sample_scene("train", index, seed)
        if len(scene.objects) <= most_objects:
            yield scene


def curriculum(progress: float) -> int:
    """Returns how many objects a scene may have after this share (0..1) of the training: 1, then 2, then all."""
    if progress < 0.15:
        return 1
    return 2 if progress < 0.35 else MOST_OBJECTS


def corpus_lines(count: int, seed: int) -> list[str]:
    """Returns distinct lines of a corpus: captions, captions with questions, unrelated sentences.

    Scenes are of the training split.
    """
    lines: dict[str, None] = {}
    index = 0
    while len(lines) < count:
        rng = generator("corpus", seed, index)
        scene = sample_scene("train", index, seed)
        kind = rng.random()
        if kind < 0.60:
            line = caption(scene, rng)
        elif kind < 0.70:
            line = f"{caption(scene, rng)} {question(scene, rng)}"
        else:
            line = unrelated_sentence(rng)
        lines[line] = None  # a dict keeps the order and drops repetitions
        index += 1
    return list(lines)
