"""A store of the tiny model's own language model, and an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.extract_job import ExtractJob
from tests.conftest import WORDS
from tests.jobs.test_analyze import complete


@pytest.fixture(scope="session")
def word_store(tiny_llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences such as "the red dog", without "grass" and "car"."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "corpus.txt").write_text("\n".join(f"the {a} {b}" for a in WORDS[:9] for b in WORDS[5:9]))
    complete(ExtractJob(str(tiny_llm_folder), (folder / "corpus.txt",), folder / "s.zarr", layers="1,2,3"))
    return folder / "s.zarr"


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(path)
    return path
