"""The report of some runs, in one folder.

    report.md            the summary, readable in two minutes
    details.md           everything else: layers, words, states, speed
    tables/<name>.{csv,md,tex}
    figures/<name>.{png,svg,pdf,csv}
    viewer/index.html
    report.json          the ids of the runs; written last, marks the folder as a report

Runs in the same order give the same bytes at any time and on any machine. A new section is one module and one entry in
`SECTIONS` or `DETAILS`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenscore.reports.agreements import agreement_section
from lenscore.reports.alignment import alignment_section
from lenscore.reports.blocked_attention import knockouts_section
from lenscore.reports.comparison import comparison_section
from lenscore.reports.corpus_sizes import corpus_section
from lenscore.reports.cosine_shares import dimensions_section
from lenscore.reports.dose_curves import word_edits_section
from lenscore.reports.edge_distances import edge_section
from lenscore.reports.explained_shares import explained_section
from lenscore.reports.judge_outputs import judge_outputs_section
from lenscore.reports.judgings import judging_section
from lenscore.reports.overlap import overlap_section
from lenscore.reports.parts.drawing import save_plot
from lenscore.reports.parts.forked import results_of
from lenscore.reports.parts.table_formats import write_table
from lenscore.reports.pass_at_k import pass_section
from lenscore.reports.provenance import runs_table
from lenscore.reports.rates import rates_section
from lenscore.reports.sections import SINGLE_RUNS, Section
from lenscore.reports.speeds import speed_section
from lenscore.reports.state_drift import states_section
from lenscore.reports.substitutions import substitutions_section
from lenscore.reports.text import details_text, report_text
from lenscore.reports.training_curves import training_section
from lenscore.reports.training_dynamics import dynamics_section
from lenscore.reports.verdict_types import verdict_types_section
from lenscore.reports.word_properties import words_section
from lenscore.reports.word_scripts import scripts_section
from lenscore.statistics.judge_output_files import is_judge_output, read_judge_outputs
from lenscore.statistics.sources import Sources, read_sources, run_folders
from lenscore.statistics.summary import Summary
from lenscore.statistics.word_lists import WordLists
from lenscore.viewer.folder import begin_viewer, write_index, write_model
from lenscore.viewer.peer_readings import is_peer_folder, peer_models
from lenscore.viewer.saved_pages import is_saved_page, page_models
from lenscore.viewer.shown_models import ViewerModel, model_of_run
from lenscore.viewer.words_of_ids import SharedWords
from storage_layouts.errors import CorruptError, InputError, MachineError
from storage_layouts.files import is_leftover, make_folder, require_place, write_atomic, write_json
from storage_layouts.other_files import what_it_is

if TYPE_CHECKING:  # of Pydantic, which takes long to load
    from lenscore.statistics.published_rates import Published

SECTIONS: tuple[Callable[[Sources], Section | None], ...] = (
    rates_section,
    comparison_section,
    agreement_section,
    judging_section,
    judge_outputs_section,
    dynamics_section,
)
"""The functions that make the sections of report.md, in order; they return None without data."""
DETAILS: tuple[Callable[[Sources], Section | None], ...] = (
    alignment_section,
    pass_section,
    corpus_section,
    words_section,
    scripts_section,
    verdict_types_section,
    edge_section,
    states_section,
    explained_section,
    substitutions_section,
    knockouts_section,
    word_edits_section,
    dimensions_section,
    overlap_section,
    training_section,
    speed_section,
)
"""The functions that make the sections of details.md, whose findings are in report.md."""
_MARK = "report.json"
_OURS = {"report.md", "details.md", "tables", "figures", "viewer", _MARK}


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report: the folder, report.md, details.md, the viewer's index, all tables and figures.

    ``left_out`` has a line for each run, or part of a run, that is not in the report, with the reason.
    """

    folder: Path
    report: Path
    details: Path
    viewer: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    summaries: tuple[Summary, ...]
    left_out: tuple[str, ...]


def write_report(
    runs: Sequence[Path],
    out: Path,
    max_images: int = 500,
    peer_images: Path | None = None,
    word_lists: WordLists | None = None,
    published: Published | None = None,
    processes: int = 1,
    progress: Callable[[str], None] = lambda message: None,
) -> ReportFiles:
    """Write the report of runs into a folder, and replace an earlier report there.

    Damaged and incomplete runs are left out, and so is LatentLens of a run whose store is missing or damaged;
    ``ReportFiles.left_out``, report.md and the viewer list these.

    Args:
        runs: folders of runs, judge outputs, latentlens result files, or saved pages of the logit lens. A judge run
            includes its analyze run; an analyze run alone has no rates. Files and pages are only in the viewer.
        out: the folder of the report.
        max_images: the most images of an analyze run in the viewer.
        peer_images: the images of the latentlens result files, in the order of the data set.
        word_lists: properties of words; by default the lists of the package.
        published: rates to compare with.
        processes: how many make sections, pages and figures at once; on Linux only.
        progress: called with the name of each section or part when it starts.

    Raises:
        InputError: there is no run, no run can be reported, ``out`` has other files than a report, or another report is
            written there at the same time.

    """
    _require_room(out)
    result_files = [path for path in runs if is_peer_folder(path)]
    pages = [path for path in runs if is_saved_page(path)]
    judged = [path for path in runs if is_judge_output(path)]
    own = [path for path in runs if path not in result_files and path not in pages and path not in judged]
    for path in own:
        if path.exists() and not any((path / name).exists() for name in ("run.json", "planning.json")):
            raise InputError(f"{path}: not a run folder: {what_it_is(path)}")
    if peer_images and not result_files:
        found = "only judge outputs, which show no images," if judged else "none"
        raise InputError(
            f"--peer-images {peer_images}: found {found} of the folders of latentlens result files that it goes with; "
            "name one, or leave it out"
        )
    peers = peer_models(result_files, peer_images) + page_models(pages)
    outputs = read_judge_outputs(judged)
    lists = word_lists or WordLists.read()
    unusable: dict[Path, str] = {}
    while True:
        progress("reading the runs")
        read = read_sources(own, unusable) if own or not (peers or outputs) else Sources(())
        sources = replace(read, word_lists=lists, published=published, judge_outputs=outputs)
        try:
            return _write(sources, peers, out, max_images, processes, progress)
        except (CorruptError, MachineError) as error:  # sizes are checked at the start, bytes when they are read
            file = Path(error.file).resolve()
            owner = next((folder for folder in run_folders(sources) if file.is_relative_to(folder.resolve())), None)
            if owner is None:
                raise
            unusable[owner] = str(error)
        except (FileNotFoundError, FileExistsError) as error:  # another command makes room for its own report
            if error.filename is None or not Path(error.filename).is_relative_to(out):
                raise
            raise InputError(
                f"--out {out}: another program took or made {error.filename} while the report was written; was it "
                "another lens report? When it has ended, repeat this one, or choose another folder"
            ) from error


def _write(
    sources: Sources,
    peers: Sequence[ViewerModel],
    out: Path,
    max_images: int,
    processes: int,
    progress: Callable[[str], None],
) -> ReportFiles:
    def made(makers: Sequence[Callable[[Sources], Section | None]]) -> Iterator[Section | None]:
        results = results_of([partial(make, sources) for make in makers], processes)
        for make in makers:
            progress(make.__name__.removesuffix("_section").replace("_", " "))
            section = next(results)
            yield section.without_details() if section and len(sources.analyses) > SINGLE_RUNS else section

    sections = list(made((*SECTIONS, *DETAILS)))
    short, long = (
        [section for section in some if section] for some in (sections[: len(SECTIONS)], sections[len(SECTIONS) :])
    )
    _make_room(out)
    viewer = out / "viewer"
    begin_viewer(viewer)
    models = [*map(partial(model_of_run, shared=SharedWords()), sources.analyses), *peers]
    plots = [plot for section in (*short, *long) for plot in section.plots]
    every_table = [runs_table(sources, peers), *(table for section in (*short, *long) for table in section.tables)]
    written: Iterator[Any] = results_of(
        [
            *(partial(write_model, viewer, model, max_images) for model in models),  # they take longest
            *(partial(save_plot, plot, out / "figures") for plot in plots),
            *(partial(write_table, table, out / "tables") for table in every_table),
        ],
        processes,
    )
    progress("the viewer")
    index = write_index(viewer, models, list(islice(written, len(models))), "report.md")
    progress("figures")
    figures = [path for paths in islice(written, len(plots)) for path in paths]
    progress("tables")
    tables = [path for paths in written for path in paths]
    report, details = out / "report.md", out / "details.md"
    write_atomic(details, details_text(long).encode())
    write_atomic(report, report_text(sources, short, long, peers).encode())
    write_json(out / _MARK, {"format": 2, "runs": sources.identity() + [{"latentlens": peer.run_id} for peer in peers]})
    summaries = tuple(judge.summary for _, judge in sources.judged)
    return ReportFiles(out, report, details, index, tuple(tables), tuple(figures), summaries, sources.left_out)


def _require_room(out: Path) -> None:
    """Raises InputError unless a new report can be written here, or only an earlier report is here."""
    require_place(out)
    found = {path.name for path in out.iterdir()} if out.exists() else set()
    others = {name for name in found - _OURS if not is_leftover(name)}
    if others:
        example = min(others)
        raise InputError(
            f"--out {out}: not a report but a folder with other things in it, e.g. {example}; choose another"
        )


def _make_room(out: Path) -> None:
    """Make the folder, without the files of an earlier report."""
    _require_room(out)
    for path in sorted(out.iterdir()) if out.exists() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    make_folder(out)
