"""The results of an analyze run as one table for other programs: a line per image, patch, layer, lens and rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from lenscore.index.result_ids import ResultIds
from lenscore.readings.image_reading import Word
from lenscore.readings.words import texts_in_sequence
from lenscore.reports.parts.table_formats import csv_text
from lenscore.viewer.words_of_ids import words_by_id
from storage_layouts.errors import InputError
from storage_layouts.files import NewFile, atomic_file
from storage_layouts.results import LensResults
from storage_layouts.tables import matrix_of_lists
from storage_layouts.token_measures import ANSWER, EXPLAINED_NUMBERS, PATCH_KEY, TEXT_ROW

_IMAGE = (("image_id", pa.int32()), ("image", pa.string()))
_WORD = (
    ("layer", pa.int16()),
    ("lens", pa.string()),
    ("rank", pa.int16()),
    ("word", pa.string()),
    ("token", pa.string()),
    ("score", pa.float32()),
    ("probability", pa.float32()),
    ("entropy", pa.float32()),
    ("divergence", pa.float32()),
    ("id", pa.int32()),
    ("contextual_layer", pa.int16()),
    ("sentence", pa.string()),
)
TABLE_SCHEMA = pa.schema(
    [
        *_IMAGE,
        *((name, pa.int16()) for name in ("view", "row", "col")),
        *((name, pa.float32()) for name in ("x0", "y0", "x1", "y1")),
        *_WORD,
    ]
)
"""Boxes are in pixels of the image; rank 1 is best; ``id`` is a row of the store or a token id. ``probability`` is that
of the candidate, ``entropy`` and ``divergence`` (from the distribution after the last block) are those of the whole
distribution at the patch and layer, in nats. They, ``contextual_layer`` and ``sentence`` are null for lenses that have
none."""

EXPLAINED_FIELDS = tuple((name, pa.float32()) for name in EXPLAINED_NUMBERS)
"""Further columns of patches in runs that keep explained variance; null for lenses without it."""

TEXT_TABLE_SCHEMA = pa.schema(
    [*_IMAGE, ("position", pa.int32()), ("text", pa.string()), ("answer", pa.bool_()), *_WORD]
)
"""Of the tokens of prompt and answer: ``position`` in the model's input, ``text`` that the model read there, whether it
is of its own ``answer``; the rest as in `TABLE_SCHEMA`."""

FORMATS = (".parquet", ".csv")
_LINES = 1 << 17
"""Lines that are made and written at once."""


class TableWriter(Protocol):
    """Writes one part of a table after the other."""

    def write_table(self, table: pa.Table) -> None:
        """Write some lines."""
        ...

    def close(self) -> None:
        """End the file."""
        ...


def write_results_table(
    results: LensResults, path: Path, progress: Callable[[int, int], None] = lambda done, shards: None
) -> dict[Path, int]:
    """Write all results in the order of the run as a table in `schema_of`; returns the number of lines by file.

    Of a run that describes tokens of text, these are a table in `TEXT_TABLE_SCHEMA` beside it: NAME-texts.ENDING.
    A shard of the run is held in memory at a time. The files are there when they are whole; older ones are replaced. In
    a .csv, text that a spreadsheet would compute begins with an apostrophe.

    Args:
        results: a complete run.
        path: a .parquet or .csv file.
        progress: takes the number of shards that are written, and of all.

    Raises:
        InputError: another ending, or the store of the run is gone.
        CorruptError: a file of the run is damaged.

    """
    require_table_name(path)
    images = dict(zip(*results.images().select(["image_id", "path"]).to_pydict().values(), strict=True))
    plan = results.run.require_plan()
    step = max(1, _LINES // results.top_k)
    of_texts = path.with_stem(f"{path.stem}-texts") if results.has_texts else None
    words = {path: words_by_id(results)}
    if of_texts is not None:
        words[of_texts] = words_by_id(results, in_text=True)
    lines = dict.fromkeys(words, 0)
    with ExitStack() as stack:
        writers = {
            file: stack.enter_context(table_file(file, schema_of(results) if file == path else TEXT_TABLE_SCHEMA))
            for file in lines
        }

        def write(file: Path, found: pa.Table, places: _Places, numbers: _Numbers) -> None:
            for start in range(0, len(found), step):
                table = _lines(found.slice(start, step), places, numbers, images, words[file])
                writers[file].write_table(table)
                lines[file] += len(table)

        for number in range(plan.shard_count):
            shard = plan.shard(number)
            of_shard = range(shard.first, shard.stop)
            boxes = _Boxes(results.geometry(of_shard), schema_of(results))
            write(path, results.results(image_ids=of_shard), boxes, _numbers_of_patches(results, of_shard))
            if of_texts is not None:
                found = results.results(image_ids=of_shard, folder="text_results")
                texts = _Texts(results, of_shard)
                write(of_texts, found, texts, _distributions(results, of_shard, "text_distributions"))
            progress(number + 1, plan.shard_count)
    return lines


def schema_of(results: LensResults) -> pa.Schema:
    """`TABLE_SCHEMA`, with `EXPLAINED_FIELDS` for a run that keeps explained variance."""
    return pa.schema([*TABLE_SCHEMA, *(EXPLAINED_FIELDS if results.explained_lenses else ())])


def require_table_name(path: Path) -> None:
    """Raises InputError unless `table_file` can write a file of this name."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: a table is a {' or '.join(FORMATS)} file; found {path.suffix or 'no ending'}")
    if path.is_dir():
        raise InputError(f"{path}: a folder; name a file in it")


@contextmanager
def table_file(path: Path, schema: pa.Schema) -> Iterator[TableWriter]:
    """Writes a .parquet or .csv file aside; it gets its name when everything is in it and on the disk."""
    with atomic_file(path) as file:
        writer: TableWriter
        if path.suffix.lower() == ".csv":
            writer = _CsvWriter(file, schema)
        else:
            writer = pq.ParquetWriter(file, schema, version="2.6", compression="zstd", compression_level=3)
        try:
            yield writer
        finally:
            writer.close()


class _CsvWriter:
    """Text from outside is as harmless in it as in the tables of a report."""

    def __init__(self, file: NewFile, schema: pa.Schema) -> None:
        self._writer = pa_csv.CSVWriter(file, schema)

    def write_table(self, table: pa.Table) -> None:
        for place, field in enumerate(table.schema):
            if pa.types.is_string(field.type):
                coded = table.column(place).combine_chunks().dictionary_encode()
                safe = [None if text is None else csv_text(text) for text in coded.dictionary.to_pylist()]
                table = table.set_column(place, field, pa.array(safe, pa.string()).take(coded.indices))
        self._writer.write_table(table)

    def close(self) -> None:
        self._writer.close()


class _Places(Protocol):
    schema: pa.Schema

    def columns(self, places: np.ndarray) -> dict[str, Any]:
        """What stands in the table about places [n, 4], as arrays [n]."""


class _Texts:
    """The tokens of prompts and answers of some images."""

    schema = TEXT_TABLE_SCHEMA

    def __init__(self, results: LensResults, image_ids: range) -> None:
        known = list(zip(results.token_words(), results.token_bytes(), strict=True))
        tokens = results.texts(image_ids)
        self._shown: dict[tuple[int, ...], str] = {}
        places = list(zip(*(tokens[name].to_pylist() for name, _ in PATCH_KEY), strict=True))
        by_image = groupby(zip(places, tokens["token_id"].to_pylist(), strict=True), lambda one: one[0][0])
        for _, of_image in by_image:
            keys, ids = zip(*of_image, strict=True)
            shown = texts_in_sequence((token, *known[token]) for token in ids)
            self._shown.update(zip(keys, shown, strict=True))

    def columns(self, places: np.ndarray) -> dict[str, Any]:
        return {
            "position": places[:, 2] * TEXT_ROW + places[:, 3],
            "text": np.array([self._shown[tuple(place)] for place in places.tolist()], object),
            "answer": places[:, 1] == ANSWER,
        }


class _Boxes:
    """Where the patches of some images lie, in pixels."""

    def __init__(self, geometry: pa.Table, schema: pa.Schema) -> None:
        self.schema = schema
        self._boxes: dict[tuple[int, int, int, int], tuple[float, float, float, float]] = {}
        for image in geometry.select(["image_id", "width", "height", "patches"]).to_pylist():
            width, height = image["width"], image["height"]
            for patch in image["patches"]:
                key = image["image_id"], patch["view"], patch["row"], patch["col"]
                box = patch["left"] * width, patch["top"] * height, patch["right"] * width, patch["bottom"] * height
                self._boxes[key] = box

    def columns(self, places: np.ndarray) -> dict[str, Any]:
        known, which = np.unique(places, axis=0, return_inverse=True)
        boxes = np.array([self._boxes[tuple(place)] for place in known.tolist()])
        corners = boxes.reshape(-1, 4)[which.ravel()]
        return {
            **{name: places[:, axis] for axis, name in enumerate(("view", "row", "col"), start=1)},
            **{name: corners[:, axis] for axis, name in enumerate(("x0", "y0", "x1", "y1"))},
        }


class _Numbers:
    """The numbers of lenses at the patches, or tokens of text, of some images: tables by lens, with lists by layer."""

    def __init__(self, layers: Sequence[int], names: Sequence[str], tables: Iterable[tuple[str, pa.Table]]) -> None:
        self._layers, self._names, self._tables = np.array(layers), names, list(tables)

    def of(self, found: pa.Table) -> dict[str, np.ndarray]:
        """float32 [n] by name, for each line of results; NaN for lenses without these numbers."""
        columns = {name: np.full(len(found), np.nan, np.float32) for name in self._names}
        layer = np.searchsorted(self._layers, found["layer"].to_numpy())
        for lens, table in self._tables:
            lines = np.flatnonzero(pc.equal(found["lens"], lens).to_numpy())
            at = _places(table).get_indexer(_places(found)[lines])
            for name in set(self._names) & set(table.column_names):
                columns[name][lines] = matrix_of_lists(table[name])[at, layer[lines]]
        return columns


_DISTRIBUTIONS = ("log_normalizers", "entropies", "divergences")


def _distributions(
    results: LensResults, image_ids: range, folder: Literal["distributions", "text_distributions"]
) -> _Numbers:
    tables = ((lens, results.distributions(lens, image_ids, folder)) for lens in results.distribution_lenses)
    return _Numbers(results.layers, _DISTRIBUTIONS, tables)


def _numbers_of_patches(results: LensResults, image_ids: range) -> _Numbers:
    tables = [
        *((lens, results.distributions(lens, image_ids)) for lens in results.distribution_lenses),
        *((lens, results.explained(lens, image_ids)) for lens in results.explained_lenses),
    ]
    return _Numbers(results.layers, (*_DISTRIBUTIONS, *EXPLAINED_NUMBERS), tables)


def _places(table: pa.Table) -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays([table[name].to_numpy() for name, _ in PATCH_KEY])


def _lines(
    found: pa.Table, where: _Places, numbers: _Numbers, images: dict[int, str], words: ResultIds[Word]
) -> pa.Table:
    """The lines of some results: one a rank, without the places of the padding id -1."""
    found = found.combine_chunks()
    places = np.stack([found[name].to_numpy() for name in ("image_id", "view", "row", "col")], axis=1)
    lists = {name: matrix_of_lists(found[name]) for name in ("ids", "scores", "contextual_layers")}
    line, rank = np.nonzero(lists["ids"] >= 0)
    ids, scores, contexts = (values[line, rank] for values in lists.values())
    lenses = found["lens"].combine_chunks().dictionary_encode()
    lens_codes = lenses.indices.to_numpy()[line]
    text: dict[str, Any] = {name: np.full(len(ids), None, object) for name in ("word", "token", "sentence")}
    for code, lens in enumerate(lenses.dictionary.to_pylist()):
        of_lens = np.flatnonzero(lens_codes == code)
        known, which = np.unique(ids[of_lens], return_inverse=True)
        said = words.look_up(lens, known.tolist())
        for name, texts in (
            ("word", [word.text for word in said]),
            ("token", [word.token for word in said]),
            ("sentence", [word.sentence or None for word in said]),
        ):
            text[name][of_lens] = np.array([*texts, None], object)[which]
    of_lines = numbers.of(found)
    columns = {
        "image_id": places[line, 0],
        "image": pa.array([images[one] for one in places[:, 0].tolist()], pa.string()).take(pa.array(line)),
        **{name: values[line] for name, values in where.columns(places).items()},
        "layer": found["layer"].to_numpy()[line],
        "lens": found["lens"].take(pa.array(line)),
        "rank": rank + 1,
        "score": scores,
        **{
            name: pa.array(values, mask=np.isnan(values))
            for name, values in (
                ("probability", np.exp(scores - of_lines["log_normalizers"][line])),
                ("entropy", of_lines["entropies"][line]),
                ("divergence", of_lines["divergences"][line]),
                *((name, of_lines[name][line]) for name in EXPLAINED_NUMBERS if name in of_lines),
            )
        },
        "id": ids,
        "contextual_layer": pa.array(contexts, mask=contexts < 0),
        **text,
    }
    return pa.table({name: columns[name] for name in where.schema.names}).cast(where.schema)
