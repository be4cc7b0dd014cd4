import runpy
from pathlib import Path

import pytest

from storage_layouts.results import LensResults

SYNTHETIC_RUN = runpy.run_path(str(Path(__file__).parents[1] / "synthetic_run.py"))


@pytest.fixture(scope="session")
def synthetic_results(tmp_path_factory: pytest.TempPathFactory) -> LensResults:
    """An analyze run on twelve pictures of the shapes world and an unreadable file, made without a model."""
    return SYNTHETIC_RUN["make_results"](tmp_path_factory.mktemp("synthetic"))
