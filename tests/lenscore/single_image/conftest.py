from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.extract_job import ExtractJob
from lenscore import load_vlm, shapes
from lenscore.models.loading import Vlm
from lenscore.readings.image_reading import ImageReading, LensReading, Word
from tests.jobs.test_analyze import complete
from tests.made_readings import as_png

HOSTILE = [
    "<script>alert(1)</script>",
    "</iframe><b>",
    "\"quoted\" & 'so'",
    "\u202eevil\u202c",
    "😀👍🏽",
    "\x00nul",
    "$\\frac{$",
    "{{ 7*7 }}",
    "A" * 10_000,
    "犬と猫",
    "مرحبا",
    " ",
    "",
    "\n",
    "naïve",
]


@pytest.fixture(scope="session")
def shapes_vlm() -> Vlm:
    return load_vlm(shapes.model_path(), "cpu")


@pytest.fixture(scope="session")
def shapes_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store of the shapes world's own language model."""
    out = tmp_path_factory.mktemp("shapes") / "store.zarr"
    complete(ExtractJob(str(shapes.model_path()), (shapes.corpus_path(),), out, layers="1,4", limit=400, per_token=4))
    return out


def hostile_word(text: str, in_sentence: bool) -> Word:
    if not in_sentence:
        return Word(text, text)
    before = ["a red ", "the quick brown fox that jumped over a very long fence saw a ", "هذا كلب ", ""][len(text) % 4]
    after = [" on a road", " and went home to sleep for many hours because it was tired of all the jumping", ""]
    return Word(text, text, before + text + after[len(text) % 3], len(before), len(before) + len(text))


@pytest.fixture(scope="session")
def hostile_reading() -> ImageReading:
    """Six rows and columns of patches, three layers, three lenses, and words that nobody should trust."""
    rng = np.random.default_rng(0)
    places = np.array([(0, row, col) for row in range(6) for col in range(6)], np.int32)
    boxes = np.array([(c / 6, r / 6, (c + 1) / 6, (r + 1) / 6) for _, r, c in places], np.float32)

    def lens(name: str, in_sentence: bool) -> LensReading:
        shape = (3, len(places), 5)
        which = rng.integers(0, len(HOSTILE), shape).astype(np.int32)
        scores = np.sort(rng.random(shape).astype(np.float32))[..., ::-1]
        contexts = rng.integers(0, 9, shape).astype(np.int16) if in_sentence else None
        return LensReading(name, tuple(hostile_word(text, in_sentence) for text in HOSTILE), which, scores, contexts)

    noise = Image.fromarray(rng.integers(0, 255, (12, 18, 3), dtype=np.uint8)).resize((720, 480))
    return ImageReading(
        name='<b>\u202ecat</b> & "friends" 😀 \x00 ' + "x" * 300 + ".png",
        caption="</script><i>caption</i>",
        width=720,
        height=480,
        picture=as_png(noise),
        views={0: "global"},
        places=places,
        boxes=boxes,
        layers=(0, 8, 16),
        lenses=(lens("latent", True), lens("logit", False), lens("embedding", False)),
    )
