"""`lens find WORD... --model VLM --images IMAGES`: where words of your choice are, by every lens, at every layer."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jobs.base import require_cover, require_positive
from launch.exit_codes import exit_code
from launch.flags import parse
from launch.model_flags import ModelFlags
from launch.progress import StageProgress
from launch.terminal import Terminal, print_out, shown, to_file_or_terminal
from lenscore.analysis.lens_folders import require_lens_folders
from lenscore.models.source import require_source
from lenscore.readings.words import distinct_words
from storage_layouts.counts import counted
from storage_layouts.errors import InputError
from storage_layouts.files import require_place, write_atomic

if TYPE_CHECKING:
    from rich.table import Table

    from lenscore.images.image_files import ImageFile
    from lenscore.word_maps.localisation import Localisation
    from lenscore.word_maps.word_finder import WordFinder
    from lenscore.word_maps.word_truth import WordTruth


@dataclass(frozen=True)
class FindCommand:
    """Score words of your choice on every patch of images, at every layer, by every lens.

    Writes a table with score, probability and rank (also outside the best candidates), and a page with the maps of each
    image. With --truth it says how well the maps show where the objects are.
    """

    words: Annotated[tuple[str, ...], tyro.conf.Positional]
    """The words. A word of several tokens has the mean of their scores."""
    model: str
    """Folder or Hub name of a vision-language model."""
    images: Path
    """An image, a folder, a list of paths (.txt), or a table."""
    out: Path
    """Folder for words.parquet (or .csv), NAME-words.html of each image, and localisation.csv; earlier ones are
    replaced, and named."""
    store: Path | None = None
    """Contextual embeddings of the model's own LLM, made by extract, or hf:REPO, those on the Hub; without
    them the latent lens is left out."""
    tuned: Path | None = None
    """A Tuned Lens for the model's own LLM, made by tune, or a folder of the tuned-lens package."""
    patchscope_prompt: str | None = None
    """The prompt of patchscopes: identity (the default), description, or a text whose last token, or the one in braces,
    is replaced by each state, as in "cat->cat; hello->hello; {x}->"."""
    layers: str = "paper"
    """Visual layers: paper, all, or numbers as in 2,8,27."""
    lenses: str | None = None
    """Which lenses, in the order to show; by default latent (with a store), logit, embedding, tuned (with
    --tuned), patchscopes (with --patchscope-prompt)."""
    contextual_layers: str = "all"
    """Layers of the store to search: all of it, or numbers as in 1,2,-1."""
    table: Literal["parquet", "csv"] = "parquet"
    """Format of the table."""
    pages: int = 50
    """Pages of so many images at most."""
    truth: str = ""
    """Where objects are: a file as --judge truth:FILE takes it, or shapes, for images of the shapes world."""
    cover: float = 0.5
    """The part of a patch (above 0, at most 1) that one object has to cover for the patch to be on it."""
    prompt: str = "Describe this image."
    """The text behind the image (causal models do not see it at the visual tokens)."""
    max_pixels: int = 178_956_970
    """An image with more pixels is left out, since a small file may be made to fill the memory."""
    self_test: bool = True
    """First see whether patches, layers and logits of the model are what lenscore takes them for; once a model."""
    loading: ModelFlags = field(default_factory=ModelFlags)

    def __post_init__(self) -> None:
        """Raises InputError for no word, and for values that are too small or too large."""
        if not self.words:
            raise InputError("lens find: expected at least one word, as in lens find boat --model VLM --images FOLDER")
        distinct_words(self.words)
        require_positive(self, "max_pixels")
        if self.pages < 0:
            raise InputError(f"--pages: found {self.pages}, expected 0 or more")
        require_cover(self.cover)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return exit_code(lambda: find(parse(FindCommand, argv, "lens find")))


def find(command: FindCommand) -> int:
    """Find the words in all images, write table, pages and localisation, print where the words are."""
    require_place(command.out)
    require_source(command.model, command.loading.revision or None)
    require_lens_folders(command.store, command.tuned)
    with StageProgress(Terminal(stderr=True), "find") as progress:
        progress.say("reading the images")
        images = _images(command.images)
        progress.say("loading PyTorch")
        from transformers.utils.logging import disable_progress_bar

        from lenscore.reports.parts.table_formats import csv_bytes
        from lenscore.word_maps.localisation import Localisation
        from lenscore.word_maps.summary_tables import localisation_tables
        from lenscore.word_maps.word_finder import WordFinder

        disable_progress_bar()  # replaced by that of StageProgress
        truth = _truth(command, images) if command.truth else None
        finder = WordFinder.load(
            command.words,
            command.model,
            command.store,
            layers=command.layers,
            lenses=command.lenses,
            contextual_layers=command.contextual_layers,
            prompt=command.prompt,
            tuned=command.tuned,
            patchscope_prompt=command.patchscope_prompt,
            self_test=command.self_test,
            progress=progress.say,
            **command.loading.options(),
        )
        localisation = None if truth is None else Localisation(truth, command.cover)
        tables, lines = _written(command, finder, images, localisation, progress)
        lines = [*finder.notes, *lines]
    if truth is not None and localisation is not None:
        measured = localisation.table()
        write_atomic(command.out / _LOCALISATION, csv_bytes(measured))
        tables = localisation_tables(measured)
        lines += [
            *_truth_lines(truth, localisation, len(images)),
            f"localisation: {shown(command.out / _LOCALISATION)}",
        ]
    console = to_file_or_terminal(140)
    for table in tables:
        console.print(table)
    for line in lines:
        print_out(line)
    return 0


_LOCALISATION = "localisation.csv"
_TABLES_SHOWN = 3
"""Images whose best patches are printed."""
_LONGEST_NAME = 255
"""Bytes of a file name, on Linux."""


def _written(
    command: FindCommand,
    finder: WordFinder,
    images: Sequence[ImageFile],
    localisation: Localisation | None,
    progress: StageProgress,
) -> tuple[list[Table], list[str]]:
    """Find the words in all images and write table and pages; returns tables and lines to print."""
    from lenscore.images.image_files import UnreadableImageError
    from lenscore.reports.results_table import table_file
    from lenscore.single_image.image_source import open_image_source
    from lenscore.word_maps.found_words import WORDS_SCHEMA
    from lenscore.word_maps.summary_tables import best_patches_table

    out, names, file = command.out, _page_names(images), command.out / f"words.{command.table}"
    replaced = [path.name for path in (file, out / _LOCALISATION) if path.exists()]
    unread: list[str] = []
    tables: list[Table] = []
    pages: list[Path] = []
    with table_file(file, WORDS_SCHEMA) as table:
        for number, image in enumerate(images):
            progress.say(f"image {number + 1:,} of {len(images):,}")
            try:
                opened = open_image_source(image.path, command.max_pixels)
            except InputError as error:
                unread.append(str(error).removeprefix("--image "))
                continue
            try:
                found = finder.find(opened, caption=image.caption or "")
            except UnreadableImageError as error:
                unread.append(f"{image.path}: {error}")
                continue
            table.write_table(found.to_arrow())
            if len(pages) < command.pages:
                pages.append(out / names[number])
                replaced += [pages[-1].name] * pages[-1].exists()
                found.save_html(pages[-1])
            if localisation is not None:
                localisation.add(number, found)
            elif len(tables) < _TABLES_SHOWN:
                tables.append(best_patches_table(found))
        if len(unread) == len(images):
            raise InputError(f"--images {command.images}: none can be used: {unread[0]}")
    lines = [f"left out: {counted(len(unread), 'image')}, such as {unread[0]}"] if unread else []
    lines.append(f"table: {shown(file)}")
    if pages:
        more = f" and {counted(len(pages) - 1, 'page')} more" if len(pages) > 1 else ""
        lines.append(f"page: {shown(pages[0])}{more}")
    if 0 < len(pages) == command.pages < len(images):
        lines.append(f"pages of the first {counted(command.pages, 'image')} alone; --pages {len(images)} writes all")
    if replaced:
        lines.append(f"replaced, of an earlier search: {', '.join(sorted(replaced))}; --out FOLDER keeps both")
    return tables, lines


def _page_names(images: Sequence[ImageFile]) -> list[str]:
    """NAME-words.html for each image; those of one name are numbered. Raises InputError for a name that is too long."""
    taken: Counter[str] = Counter()
    names = []
    for image in images:
        taken[image.path.stem] += 1
        number = taken[image.path.stem]
        names.append(f"{image.path.stem}{f'-{number}' if number > 1 else ''}-words.html")
        if len(os.fsencode(names[-1])) > _LONGEST_NAME:
            raise InputError(f"--images: {names[-1]} is longer than the {_LONGEST_NAME} bytes of a file name")
    return names


def _images(source: Path) -> list[ImageFile]:
    """The images of a folder, a list or a table; or the one image itself."""
    from lenscore.images.image_files import ImageFile, find_images
    from lenscore.user_files.rows import TABLES, format_of

    if source.is_file() and format_of(source.name) not in (".txt", *TABLES):
        return [ImageFile(source.absolute(), "", 0, None)]
    return find_images(source)


def _truth(command: FindCommand, images: Sequence[ImageFile]) -> WordTruth:
    """What is known of the images. Raises InputError if it has none of the words."""
    from lenscore.judging.patches import ImagePatches
    from lenscore.single_image.image_source import open_image_source
    from lenscore.word_maps.word_truth import WordTruth

    known = []
    for number, image in enumerate(images):
        with contextlib.suppress(InputError):  # said when the words are looked for
            opened = open_image_source(image.path, command.max_pixels)
            known.append(ImagePatches(number, str(image.path), opened.sha256, (), *opened.pixels.size))
    truth = WordTruth.of(command.truth, known)
    if not any(truth.images_with(word) for word in command.words):
        words = ", ".join(map(repr, command.words))
        raise InputError(f"--truth {command.truth}: no image has an object called {words}; nothing can be measured")
    return truth


def _truth_lines(truth: WordTruth, localisation: Localisation, images: int) -> list[str]:
    counts = {word: len(truth.images_with(word)) for word in localisation.words}
    said = ", ".join(f"{word} {count:,}" for word, count in counts.items())
    lines = [f"truth: of {counted(images, 'image')} only those count that have the word's object: {said}"]
    if localisation.without_patch:
        missed = ", ".join(f"{word} {count:,}" for word, count in localisation.without_patch.items())
        lines.append(f"truth: not counted, because the object covers too little of every patch (--cover): {missed}")
    return [*lines, *(f"truth: {note}" for note in truth.notes)]


if __name__ == "__main__":
    sys.exit(main())
