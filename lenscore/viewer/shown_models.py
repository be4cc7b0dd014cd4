"""A model in the viewer: its readings, its judge runs, and its components."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from lenscore.readings.image_reading import ImageReading
from lenscore.readings.text_reading import TextReading
from lenscore.statistics.file_names import file_name
from lenscore.statistics.sources import AnalyzeSource, model_label
from lenscore.viewer.readings import RunReadings
from lenscore.viewer.words_of_ids import SharedWords


class Readings(Protocol):
    """The source of readings: an analyze run, or the result files of other tools.

    ``layers``, ``lenses`` and ``top_k`` are those of all images; ``errors`` has the reasons why images have no reading.
    """

    layers: tuple[int, ...]
    lenses: tuple[str, ...]
    top_k: int
    names: Mapping[int, str]
    errors: Mapping[int, str]
    image_ids: list[int]

    @property
    def has_texts(self) -> bool:
        """Whether there are readings of prompts and answers."""

    def texts(self, image_ids: Iterable[int]) -> Iterator[tuple[int, TextReading]]:
        """Yields the readings of prompt and answer of some images, ascending."""

    def readings(self, image_ids: Iterable[int]) -> Iterator[tuple[int, ImageReading]]:
        """Yields the readings of some images, ascending."""


@dataclass(frozen=True)
class ViewerModel:
    """One model of the viewer.

    Attributes:
        label: its title; text from outside.
        run_id: a permanent identifier, independent of the other models.
        readings: its images.
        source: the analyze run with its judge runs; None for result files of other tools.
        about: (name, value) of its components, for the line below its label.
        notes: sentences for the reader of its page, such as assumptions.

    """

    label: str
    run_id: str
    readings: Readings
    source: AnalyzeSource | None = None
    about: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Its folder in the viewer: readable, and the same in every report, so that links stay valid."""
        return f"{file_name(model_label(self.source.results.model) if self.source else self.label)}-{self.run_id[:6]}"

    def chosen(self, max_images: int) -> list[int]:
        """Returns the images to show, ascending; judged ones are taken first, then in the order of the run."""
        judges = self.source.judges if self.source else []
        judged = {int(image_id) for judge in judges for image_id in judge.verdicts["image_id"].unique()}
        by_interest = sorted(self.readings.image_ids, key=lambda image_id: (image_id not in judged, image_id))
        return sorted(by_interest[:max_images])


def model_of_run(source: AnalyzeSource, shared: SharedWords | None = None) -> ViewerModel:
    """Returns the `ViewerModel` of an analyze run; runs can share the words that they have looked up."""
    results, made_of = source.results, source.made_of or {}
    about: tuple[tuple[str, str], ...] = tuple(
        (name, model_label(str(made_of[name]))) for name in ("llm", "vision", "connector") if name in made_of
    )
    notes = tuple(note.replace("`", "") for note in source.layer_notes)  # plain text
    readings = RunReadings(results, source.judges, source.interventions, shared)
    return ViewerModel(source.label, results.run.run_id, readings, source, notes=notes, about=about)
