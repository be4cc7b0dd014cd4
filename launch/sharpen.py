"""`lens sharpen --results RUN`: the command line of jobs/sharpen_settings.py; at the end, tables and what they say."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jobs.sharpen_settings import SharpenSettings
from launch.stages import Launch, command_with_end
from launch.terminal import print_out, shown
from storage_layouts.files import write_atomic
from storage_layouts.runs import RunFolder

if TYPE_CHECKING:
    from lenscore.judging.patches import ImagePatches, PatchRef
    from lenscore.sharpening.sharpening_measures import Measured
    from storage_layouts.results import LensResults

TABLES = ("rounds.csv", "differences.csv", "patches.csv", "sentences.csv")
SUMMARY = "summary.txt"


@dataclass(frozen=True)
class SharpenLaunch(Launch):
    """Where the searches run. `--rounds` is that of the settings, so workers are started as often as is usual."""

    rounds: ClassVar[int] = Launch.rounds  # type: ignore[misc]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return command_with_end(SharpenSettings, argv, _finish, SharpenLaunch)


def _finish(run: RunFolder) -> None:
    """Print what was found, and where its tables are; write these, if some are missing."""
    names = [*TABLES, *(f"found-{source}.jsonl" for source in run.config["sources"].split(",")), SUMMARY]
    if not all((run.path / name).exists() for name in names):
        _write_tables(run)
    print_out((run.path / SUMMARY).read_bytes().decode("utf-8", "replace").rstrip())
    for name in names:
        print_out(f"{name}: {shown(run.path / name)}")


def _write_tables(run: RunFolder) -> None:
    """Measure what the searches found."""
    from jobs.analyzed_results import results_begun_with
    from jobs.sharpen_job import SharpenJob
    from jobs.sharpen_steps import sample_of, searched_in
    from jobs.worker import job_of
    from lenscore.judging.patches import partners, readable_images
    from lenscore.sharpening.sharpening_measures import measured

    job = job_of(run)
    assert isinstance(job, SharpenJob)
    results, patches = results_begun_with(job.results, run), sample_of(run)
    images = {image.image_id: image for image in readable_images(results.images(), results.geometry())}
    truth = job.attribute_truth([*images.values()])
    truths = [truth.of(images[place.image_id], place) for place in patches] if truth else []
    at = {place.key: number for number, place in enumerate(patches)}
    others = [at[other.key] if other else None for other in partners(patches, job.seed)]
    files, lines = _tables([measured(one, truths, others) for one in searched_in(run)], patches, images, results)
    notes = [f"truth: {note}" for note in (truth.notes if truth else ())]
    files[SUMMARY] = ("\n".join([*notes, *lines]) + "\n").encode()
    for name, data in files.items():
        write_atomic(run.path / name, data)


def _tables(
    found: Sequence[Measured], patches: Sequence[PatchRef], images: Mapping[int, ImagePatches], results: LensResults
) -> tuple[dict[str, bytes], list[str]]:
    from lenscore.reports.parts.table_formats import csv_bytes
    from lenscore.sharpening.sharpening_measures import (
        OverImages,
        differences_table,
        found_corpora,
        found_table,
        rounds_table,
        sentences_table,
        summary,
    )

    over_images = OverImages(patches)
    differences = differences_table(found, over_images)
    lines = summary(found, differences, over_images)
    paths = {image_id: image.path for image_id, image in images.items()}
    tables = (
        rounds_table(found, over_images, results.layers),
        differences,
        found_table(found, patches, paths, results.layers),
        sentences_table(found),
    )
    files = {
        **dict(zip(TABLES, map(csv_bytes, tables), strict=True)),
        **{f"found-{source}.jsonl": data for source, data in found_corpora(found).items()},
    }
    return files, lines


if __name__ == "__main__":
    sys.exit(main())
