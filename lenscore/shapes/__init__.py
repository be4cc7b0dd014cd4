"""The shapes world: a tiny vision-language model and images with exact truth, shipped with the package.

Scenes of coloured, textured objects are rendered with known pixels, so the right words for any box of an image are
known. A LLaVA trained from scratch on this world needs no network and no GPU. ``README.md`` beside this file has the
recipe and its measures; ``python -m lenscore.shapes.build --out DIR`` repeats it.
"""

from pathlib import Path

from lenscore.shapes.pictures import read_scene, write_images
from lenscore.shapes.scenes import Scene, SceneObject
from lenscore.shapes.truth import PatchTruth, patch_truth, patch_truths

__all__ = [
    "PatchTruth",
    "Scene",
    "SceneObject",
    "corpus_path",
    "model_path",
    "patch_truth",
    "patch_truths",
    "read_scene",
    "write_images",
]

_DATA = Path(__file__).parent / "data"


def model_path() -> Path:
    """Returns the folder of the shipped model: ``LlavaForConditionalGeneration`` and its processor, in float32."""
    return _DATA / "model"


def corpus_path() -> Path:
    """Returns the path of the shipped text corpus: UTF-8, one sentence or short text a line."""
    return _DATA / "corpus.txt"
