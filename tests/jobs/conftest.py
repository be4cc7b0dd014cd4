from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.judge_job import JudgeJob
from lenscore.judging.questions import QuestionSettings
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.results import LensResults
from tests import synthetic_run
from tests.judge_runs import KEY, Oracle, prices
from tests.judge_server import JudgeServer


@pytest.fixture(scope="session")
def synthetic_results(tmp_path_factory: pytest.TempPathFactory) -> LensResults:
    """An analyze run on twelve pictures of the shapes world and an unreadable file, made without a model."""
    return synthetic_run.make_results(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture
def serve(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., JudgeServer]]:
    """Starts the server and puts it in OpenAI's place."""
    servers = []

    def start(**settings: object) -> JudgeServer:
        server = JudgeServer(oracle, **{"models": ("judge-1", "judge-2"), "key": KEY} | settings)
        servers.append(server)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def make_job(synthetic_results: LensResults, tmp_path: Path, oracle: Oracle) -> Callable[..., JudgeJob]:
    """A job of judge-1 with prices; ``terms`` besides the usual ones are given by name."""

    def make(name: str = "run", judge: str = "openai:judge-1", patches: int = 10, terms: dict | None = None, **more):
        usual = {"max_cost": 10.0, "prices": prices(tmp_path), "request_timeout": 1.0, "poll_seconds": 0.05}
        return JudgeJob(
            synthetic_results.path,
            tmp_path / name,
            judge=judge,
            patches=patches,
            max_output_tokens=400,
            question=QuestionSettings(image_side=64, crop_side=32),
            policy=RequestPolicy(**usual | (terms or {})),
            **more,
        )

    return make
