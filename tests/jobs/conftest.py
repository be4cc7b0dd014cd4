import pytest

from storage_layouts.results import LensResults
from tests import synthetic_run


@pytest.fixture(scope="session")
def synthetic_results(tmp_path_factory: pytest.TempPathFactory) -> LensResults:
    """An analyze run on twelve pictures of the shapes world and an unreadable file, made without a model."""
    return synthetic_run.make_results(tmp_path_factory.mktemp("synthetic"))
