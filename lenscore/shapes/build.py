"""Rebuild the shapes world from scratch: ``python -m lenscore.shapes.build --out DIR [--seed S]``.

Stages run one after another and write their results into DIR; a repeated command skips finished stages. The results are
``DIR/model`` and ``DIR/corpus.txt``, which ``lenscore/shapes/data`` ships, and ``DIR/measures.txt``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
)

from lenscore.shapes.connector import (
    ConnectorPlan,
    assemble,
    new_processor,
    pil_image_processor,
    train_connector,
)
from lenscore.shapes.documents import corpus_lines
from lenscore.shapes.language_model import LanguageModelPlan, new_language_model, train_language_model
from lenscore.shapes.measures import caption_recall, lens_table
from lenscore.shapes.tokenizer import train_tokenizer
from lenscore.shapes.vision_encoder import VisionPlan, new_vision_encoder, train_vision_encoder


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the result, except the versions of the libraries."""

    seed: int = 0
    corpus_lines: int = 16000
    measured_images: int = 100
    language_model: LanguageModelPlan = field(default_factory=LanguageModelPlan)
    vision_encoder: VisionPlan = field(default_factory=VisionPlan)
    connector: ConnectorPlan = field(default_factory=ConnectorPlan)

    def stage_seed(self, stage: int) -> int:
        """Returns the seed of a stage: each stage has different scenes, always of the training split."""
        return 10 * self.seed + stage


def build(out: Path, recipe: Recipe) -> None:
    """Run every stage that is not finished.

    Raises ValueError if the folder was begun with another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    _keep_recipe(out / "recipe.json", recipe)
    stages: list[tuple[str, Callable[[Path, Path, Recipe], None]]] = [
        ("tokenizer", _tokenizer),
        ("language_model", _language_model),
        ("vision_encoder", _vision_encoder),
        ("model", _model),
        ("corpus.txt", _corpus),
        ("measures.txt", _measures),
    ]
    for name, stage in stages:
        if (out / name).exists():
            print(f"{name}: done already", flush=True)
            continue
        start = time.monotonic()
        aside = out / f"{name}.part"
        if aside.is_dir():
            shutil.rmtree(aside)  # partial result of a killed run
        stage(aside, out, recipe)
        aside.replace(out / name)
        print(f"{name}: took {time.monotonic() - start:.0f} s", flush=True)
    print((out / "measures.txt").read_text(encoding="utf-8"))


def _tokenizer(target: Path, out: Path, recipe: Recipe) -> None:
    train_tokenizer(recipe.stage_seed(0)).save_pretrained(target)


def _language_model(target: Path, out: Path, recipe: Recipe) -> None:
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    seed = recipe.stage_seed(1)
    model = new_language_model(tokenizer, recipe.language_model, seed)
    train_language_model(model, tokenizer, recipe.language_model, seed)
    model.save_pretrained(target)


def _vision_encoder(target: Path, out: Path, recipe: Recipe) -> None:
    seed = recipe.stage_seed(2)
    model = new_vision_encoder(recipe.vision_encoder, seed)
    train_vision_encoder(model, recipe.vision_encoder, seed)
    model.save_pretrained(target)


def _model(target: Path, out: Path, recipe: Recipe) -> None:
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    language_model = LlamaForCausalLM.from_pretrained(out / "language_model", dtype=torch.float32)
    vision_encoder = CLIPVisionModel.from_pretrained(out / "vision_encoder", dtype=torch.float32)
    seed = recipe.stage_seed(3)
    model = assemble(language_model, vision_encoder, tokenizer, seed)
    train_connector(model, tokenizer, recipe.connector, seed)
    model.save_pretrained(target)
    new_processor(tokenizer, pil_image_processor()).save_pretrained(target)


def _corpus(target: Path, out: Path, recipe: Recipe) -> None:
    lines = corpus_lines(recipe.corpus_lines, recipe.stage_seed(4))
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _measures(target: Path, out: Path, recipe: Recipe) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(out / "model", dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(out / "model")
    corpus = (out / "corpus.txt").read_text(encoding="utf-8").splitlines()
    recall = caption_recall(model, processor, recipe.measured_images)
    lenses = lens_table(model, processor, corpus, recipe.measured_images)
    captions = f"captions of validation scenes: noun {recall['noun']:.3f}, colour {recall['colour']:.3f}"
    target.write_text(f"{captions}\n{lenses}\n", encoding="utf-8")


def _keep_recipe(path: Path, recipe: Recipe) -> None:
    text = json.dumps(asdict(recipe), indent=2)
    if not path.exists():
        path.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{path}: this folder was begun with another recipe; choose another --out")


def main() -> int:
    """Run the command line. Returns the exit code: 0 if everything is built, 2 for a refused folder."""
    parser = argparse.ArgumentParser(
        prog="python -m lenscore.shapes.build", description="Rebuild the shapes world from scratch."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.monotonic()
    try:
        build(arguments.out, Recipe(seed=arguments.seed))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"built in {(time.monotonic() - start) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
