from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.judge_job import JudgeJob
from jobs.work import work
from lenscore.reports import writing
from lenscore.reports.writing import ReportFiles, write_report
from storage_layouts.results import LensResults
from tests import synthetic_run
from tests.image_pages import served


@pytest.fixture(scope="session")
def make_results() -> Callable[..., LensResults]:
    """Makes an analyze run in a folder, without a model."""
    return synthetic_run.make_results


@pytest.fixture(scope="session")
def judge() -> Callable[..., Path]:
    """Judges an analyze run into a folder: judge(results, out, **settings)."""

    def run_judge(results: LensResults, out: Path, **settings: object) -> Path:
        job = JudgeJob(results.path, out, **settings)
        run = job.open_run()
        job.plan(run, lambda message: None)
        assert work(run, lambda: job.open_worker(run, "cpu"), "worker").exit_code == 0
        return out

    return run_judge


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory, make_results, judge) -> tuple[LensResults, Path]:
    """Twelve pictures of the shapes world and an unreadable file, analysed, and a judge run on them."""
    folder = tmp_path_factory.mktemp("judged")
    results = make_results(folder)
    return results, judge(results, folder / "judge", patches=60)


@pytest.fixture(scope="session")
def report(judged, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """The report of that judge run."""
    return write_report([judged[1]], tmp_path_factory.mktemp("report") / "out")


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports whose figures no check looks at, and which take most of their time."""
    monkeypatch.setattr(writing, "save_plot", lambda plot, folder: [])


@pytest.fixture(scope="session")
def model_folder(report, judged) -> Path:
    """The viewer's folder of the one model."""
    found = [path for path in report.viewer.parent.iterdir() if path.name.endswith(judged[0].run.run_id[:6])]
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module", params=["file", "http"])
def address(request: pytest.FixtureRequest, report: ReportFiles, model_folder: Path) -> Iterator[str]:
    """Where the model's page is: on the disk, and on a web server."""
    if request.param == "file":
        yield (model_folder / "index.html").as_uri()
        return
    with served(report.viewer.parent) as root:
        yield f"{root}/{model_folder.name}/index.html"
