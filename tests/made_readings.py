"""Readings made up for the image page, the same every time: real ones are tidy, these are not.

Words and names hold markup, quotes, right-to-left marks, emoji, control characters and 10,000 letters without a
blank; some patches have fewer candidates than others, some lie in the padding; one lens searches no store.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from lenscore.readings.image_reading import (
    ExplainedReading,
    ImageReading,
    LensReading,
    NextTokenReading,
    PatchVerdict,
    Picture,
    Thing,
    Truth,
    Word,
)

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "</script><script>alert(3)</script>",
    "\u202egnirts esrever",
    "👩‍👩‍👧 family",
    "a\0nul",
    "W" * 10_000,
    '=HYPERLINK("http://x","y")',
    "two\nlines, and a comma",
    "{{ 7*7 }}",
    "\ud800",  # half a surrogate pair
)
EMPTY = ("", "  ", "\n", ",", "...", "▁", "\ufffd")
NOUNS = ("dog", "grass", "sky", "frisbee", "collar", "tree", "Dog", "dogs", "shadow", "fence")
KINDS = ("concrete", "abstract", "global")


def picture(width: int, height: int) -> Picture:
    """A meadow with something round in it."""
    down = np.linspace(0, 1, height)[:, None, None]
    across = np.linspace(0, 1, width)[None, :, None]
    sky, grass = np.array([120, 170, 230]), np.array([70, 140, 60])
    pixels = np.where(down + 0.1 * np.sin(6 * across) < 0.55, sky + 40 * down, grass + 50 * across * down)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGB")
    draw = ImageDraw.Draw(image)
    draw.ellipse([0.3 * width, 0.3 * height, 0.65 * width, 0.8 * height], fill=(150, 90, 40))
    draw.ellipse([0.7 * width, 0.15 * height, 0.8 * width, 0.15 * height + 0.1 * width], fill=(230, 60, 60))
    return as_png(image)


def as_png(image: Image.Image) -> Picture:
    """The image as a reading holds it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Picture(buffer.getvalue(), "image/png")


def grid(view: int, rows: int, columns: int, box: tuple[float, float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Places [n, 3] and boxes [n, 4] of a view that covers ``box``."""
    left, top, right, bottom = box
    places = np.array([(view, row, column) for row in range(rows) for column in range(columns)], np.int32)
    wide, high = (right - left) / columns, (bottom - top) / rows
    corners = np.column_stack([left + places[:, 2] * wide, top + places[:, 1] * high])
    return places, np.hstack([corners, corners + np.array([wide, high])]).astype(np.float32)


def reading(
    name: str = "meadow & <b>dog</b>.jpg",
    layers: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 24, 30, 31),
    views: tuple[tuple[str, int, int, tuple[float, float, float, float]], ...] = (("global", 24, 24, (0, 0, 1, 1)),),
    size: tuple[int, int] = (480, 360),
    top_k: int = 5,
    with_picture: bool = True,
    with_truth: bool = False,
    judged: int = 12,
    padding: bool = False,
    seed: int = 0,
) -> ImageReading:
    """One image; ``views`` are (name, rows, columns, box)."""
    rng = np.random.default_rng(seed)
    grids = [grid(view, rows, columns, box) for view, (_, rows, columns, box) in enumerate(views)]
    places, boxes = (np.concatenate(parts) for parts in zip(*grids, strict=True))
    if padding:  # the last row of the last view shows nothing of the image
        last = (places[:, 0] == places[-1, 0]) & (places[:, 1] == places[-1, 1])
        boxes[last, 1] = boxes[last, 3] = 1.0
    shape = (len(layers), len(places), top_k)
    lenses = (
        _lens("latent", shape, rng, contextual=np.array([1, 2, 4, 8, 16, 24, 30, 31])),
        _lens("logit", shape, rng, low=-4.0, high=31.0),
        _lens("embedding", shape, rng),
    )
    truth = _truth(len(places), rng) if with_truth else None
    verdicts = _verdicts(layers, lenses, rng.permutation(len(places))[:judged], rng)
    return ImageReading(
        name=name,
        caption='a dog in the grass & a "frisbee" </title>',
        width=size[0],
        height=size[1],
        picture=picture(*size) if with_picture else None,
        views={view: named for view, (named, *_) in enumerate(views)},
        places=places,
        boxes=boxes,
        layers=layers,
        lenses=lenses,
        verdicts=verdicts,
        truth=truth,
    )


def _lens(
    name: str,
    shape: tuple[int, int, int],
    rng: np.random.Generator,
    low: float = -0.1,
    high: float = 0.9,
    contextual: np.ndarray | None = None,
) -> LensReading:
    words = tuple(_word(text, i, contextual is not None) for i, text in enumerate(NOUNS + HOSTILE + EMPTY))
    chance = np.array([8.0] * len(NOUNS) + [0.4] * len(HOSTILE) + [1.0] * len(EMPTY))
    which = rng.choice(len(words), shape, p=chance / chance.sum()).astype(np.int32)
    middle = np.linspace(0.3, 0.8, shape[0])[:, None, None]
    scores = np.sort(rng.beta(6 * middle, 6 * (1 - middle), shape), axis=2)[:, :, ::-1]
    few = rng.random(shape[:2]) < 0.03
    which[few, 1:] = -1
    which[:, 3] = -1  # a patch of which the lens says nothing at all
    scores = (low + (high - low) * np.where(which < 0, np.nan, scores)).astype(np.float32)
    contexts = None
    if contextual is not None:
        # The leap: low visual layers find their neighbours in middle contextual layers.
        middle_layers = np.clip(rng.normal(4, 1.2, shape) + np.linspace(-1, 2.5, shape[0])[:, None, None], 0, 7)
        contexts = np.where(which < 0, -1, contextual[middle_layers.astype(int)]).astype(np.int16)
    next_token = _next_token(scores) if name == "logit" else None
    explained = None
    if name == "embedding":
        numbers = np.random.default_rng(2).uniform(0.01, 1, (5, *shape[:2])).astype(np.float32)
        explained = ExplainedReading(*numbers)
    return LensReading(name, words, which, scores, contexts, next_token, explained)


def _next_token(scores: np.ndarray) -> NextTokenReading:
    """Candidates have some of the probability; where there is none, all of it is elsewhere."""
    rng = np.random.default_rng(1)
    with np.errstate(divide="ignore"):
        known = np.log(np.exp(np.nan_to_num(scores, nan=-np.inf)).sum(axis=2))
    log_normalizers = np.where(np.isfinite(known), known, 0) + rng.exponential(1.5, scores.shape[:2])
    numbers = log_normalizers, rng.uniform(0, 9, scores.shape[:2]), rng.exponential(2, scores.shape[:2])
    return NextTokenReading(*(values.astype(np.float32) for values in numbers))


def _word(text: str, number: int, in_sentence: bool) -> Word:
    if not in_sentence:
        return Word(text, token=" " + text)
    before = f"😀 number {number}: a photo of "
    return Word(text, text[:4], f"{before}{text} on the left", len(before), len(before) + len(text[:4]))


def _verdicts(layers, lenses, patches, rng) -> tuple[PatchVerdict, ...]:
    verdicts = []
    for patch in patches.tolist():
        for place, layer in enumerate(layers):
            for lens in lenses:
                words = tuple(dict.fromkeys(lens.words[i].text for i in lens.which[place, patch] if i >= 0))
                for judge in ("gpt-<i>", "qwen & co")[: 1 + patch % 2]:
                    outcome = str(rng.choice(["yes", "no", "refused"], p=[0.6, 0.35, 0.05]))
                    fitting = words[:1] if outcome == "yes" and words else ()
                    kinds = {str(rng.choice(KINDS)): fitting} if fitting else {}
                    verdicts.append(PatchVerdict(judge, patch, layer, lens.lens, outcome, fitting, kinds))
    return tuple(verdicts)


def _truth(patches: int, rng: np.random.Generator) -> Truth:
    things = (
        Thing("object", {"noun": ("circle", "disc"), "colour": ("red",)}),
        Thing("background", {"noun": ("background",), "colour": ("grey", "gray")}),
        Thing("padding", {}),
    )
    return Truth(things, rng.integers(0, 3, patches).astype(np.int32), rng.random(patches).astype(np.float32))


TILES = (
    ("global", 12, 12, (0.0, 0.0, 1.0, 1.0)),
    *(
        (f"tile {3 * row + column}", 8, 8, (column / 3, row / 2, (column + 1) / 3, (row + 1) / 2))
        for row in range(2)
        for column in range(3)
    ),
)
