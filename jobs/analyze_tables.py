"""The tables of an analyze run, written batch by batch, without a loop over patches and layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from lenscore.analysis.engine import BatchResults, TextTokens
from lenscore.analysis.lens_pass import LensPass
from storage_layouts.files import FileDigest
from storage_layouts.results import GEOMETRY_SCHEMA, checked_results, result_schema
from storage_layouts.shards import Shard, part_name
from storage_layouts.tables import TableWriter, table_writer
from storage_layouts.token_measures import (
    ANSWER,
    DISTRIBUTIONS,
    EXPLAINED,
    PROMPT,
    TEXT_DISTRIBUTIONS,
    TEXT_RESULTS,
    TEXT_ROW,
    TEXT_SCHEMA,
    TEXTS,
    distribution_schema,
    explained_schema,
    measure_schema,
)

LINES = 1 << 15
"""Lines of results in one table; larger ones would only take more memory."""


class ShardTables:
    """The parts of a shard: results, geometry and the measures of its tokens; see `shard_tables`."""

    def __init__(self, parts: dict[str, TableWriter], shard: Shard, facts: Mapping[str, Any]) -> None:
        self._parts, self._shard = parts, shard
        self._lenses, self._layers, self._k = facts["lenses"], facts["layers"], facts["top_k"]

    def add(self, found: BatchResults) -> None:
        """Append the results of the next batch of images. ValueError for scores that are not finite."""
        self._parts["geometry"].add(geometry_table(found))
        if not found.image_ids:
            return
        places = patch_places(found)
        self._add_lenses("results", DISTRIBUTIONS, places, found.lenses)
        measures = {"norms": [found.norms], "cosines": [found.own_cosines, found.shuffled_cosines]}
        for name, tensors in measures.items():
            self._parts[name].add(measure_table(places, measure_schema(name, len(self._layers)), tensors))
        if EXPLAINED in self._parts:
            schema = explained_schema(len(self._layers))
            self._parts[EXPLAINED].add(table_of_lenses(places, schema, found.lenses.explained))
        if found.texts is not None:
            places = text_places(found.texts)
            self._parts[TEXTS].add(pa.table({**_columns(places), "token_id": found.texts.token_ids}).cast(TEXT_SCHEMA))
            self._add_lenses(TEXT_RESULTS, TEXT_DISTRIBUTIONS, places, found.texts.lenses)

    def _add_lenses(self, results: str, distributions: str, places: np.ndarray, found: LensPass) -> None:
        for table in results_tables(places, found, self._lenses, self._layers, self._k):
            self._parts[results].add(checked_results(table))
        if distributions in self._parts:
            schema = distribution_schema(len(self._layers))
            self._parts[distributions].add(table_of_lenses(places, schema, found.next_tokens))

    @property
    def files(self) -> dict[str, FileDigest]:
        """The digests of the files by their names in the run folder, when they are closed."""
        return {part_name(folder, self._shard.index): part.digest for folder, part in self._parts.items()}


@contextmanager
def shard_tables(path: Path, shard: Shard, facts: Mapping[str, Any]) -> Iterator[ShardTables]:
    """The files of a shard to write batch by batch; they get their names at the end of the block.

    Args:
        path: the run folder.
        shard: of the run.
        facts: of the plan: lenses, in the order of the results, visual layers, top_k, the lenses that read
            distributions, those whose explained variance is kept, and whether tokens of text are described.

    """
    layers = len(facts["layers"])
    schemas = {
        "results": result_schema(facts["top_k"]),
        "geometry": GEOMETRY_SCHEMA,
        **{measure: measure_schema(measure, layers) for measure in ("norms", "cosines")},
    }
    if facts.get("texts"):
        schemas |= {TEXTS: TEXT_SCHEMA, TEXT_RESULTS: schemas["results"]}
    if facts.get("distribution_lenses"):
        schemas[DISTRIBUTIONS] = distribution_schema(layers)
        if facts.get("texts"):
            schemas[TEXT_DISTRIBUTIONS] = distribution_schema(layers)
    if facts.get("explained_lenses"):
        schemas[EXPLAINED] = explained_schema(layers)
    with ExitStack() as stack:
        parts = {
            folder: stack.enter_context(table_writer(path / part_name(folder, shard.index), schema))
            for folder, schema in schemas.items()
        }
        yield ShardTables(parts, shard, facts)


def results_tables(
    places: np.ndarray, found: LensPass, lenses: Sequence[str], layers: Sequence[int], k: int
) -> Iterator[pa.Table]:
    """One line per (place, layer, lens), in this order, with the top k; in tables of bounded size."""
    tops = [found.tops[lens] for lens in lenses]
    each = len(layers) * len(lenses)
    step = max(1, LINES // each)
    for first in range(0, len(places), step):
        some = slice(first, first + step)
        count = len(places[some])
        of_lens = pa.array(np.tile(np.arange(len(lenses), dtype=np.int32), count * len(layers)))
        columns = {
            **{name: np.repeat(column, each) for name, column in _columns(places[some]).items()},
            "layer": np.tile(np.repeat(np.array(layers, np.int16), len(lenses)), count),
            "lens": pa.DictionaryArray.from_arrays(of_lens, list(lenses)).cast(pa.string()),
            "ids": _lists([top.ids[:, some].numpy() for top in tops], k),
            "scores": _lists([top.scores[:, some].numpy() for top in tops], k),
            "contextual_layers": _lists([top.contextual_layers[:, some].numpy() for top in tops], k),
        }
        yield pa.table(columns).cast(result_schema(k))


def measure_table(places: np.ndarray, schema: pa.Schema, tensors: Sequence[Tensor]) -> pa.Table:
    """One line per place, then for each tensor [layers, tokens] a list over the layers."""
    columns = [pa.array(column) for column in _columns(places).values()]
    for tensor in tensors:
        values = pa.array(np.ascontiguousarray(tensor.numpy().T).reshape(-1))
        columns.append(pa.FixedSizeListArray.from_arrays(values, tensor.shape[0]))
    return pa.table(columns, schema.names).cast(schema)


def table_of_lenses(places: np.ndarray, schema: pa.Schema, found: Mapping[str, Iterable[Tensor]]) -> pa.Table:
    """One line per (place, lens), then lists over the layers, of the numbers [layers, tokens] of each lens."""
    columns = [pa.array(column) for column in _columns(np.repeat(places, len(found), axis=0)).values()]
    columns.append(pa.array(list(found) * len(places), pa.string()))
    for of_each_lens in zip(*found.values(), strict=True):
        values = np.stack([values.numpy().T for values in of_each_lens], axis=1)  # [tokens, lenses, layers]
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[2]))
    return pa.table(columns, schema.names).cast(schema)


def geometry_table(found: BatchResults) -> pa.Table:
    """One line per image: its size, views and patches, or the error of an unreadable one."""
    lines: dict[int, dict[str, Any]] = {
        i: {"error": reason, "patches": [], "views": []} for i, reason in found.unreadable.items()
    }
    for i, geometry in zip(found.image_ids, found.geometries, strict=True):
        parts = {name: [vars(part) for part in getattr(geometry, name)] for name in ("patches", "views")}
        lines[i] = {"error": None, **vars(geometry), **parts}
    return pa.Table.from_pylist([{"image_id": i, **lines[i]} for i in sorted(lines)], schema=GEOMETRY_SCHEMA)


def patch_places(found: BatchResults) -> np.ndarray:
    """Image, view, row and column of every patch: int32 [tokens, 4]."""
    patches = [
        (image_id, patch.view, patch.row, patch.col)
        for image_id, geometry in zip(found.image_ids, found.geometries, strict=True)
        for patch in geometry.patches
    ]
    return np.array(patches, np.int32).reshape(-1, 4)


def text_places(found: TextTokens) -> np.ndarray:
    """Image, view (`PROMPT` or `ANSWER`), and the position as row and column, of tokens of text: int32 [tokens, 4]."""
    views = np.where(found.is_answer, ANSWER, PROMPT)
    return np.stack([found.image_ids, views, *np.divmod(found.positions, TEXT_ROW)], axis=1).astype(np.int32)


def _columns(places: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(("image_id", "view", "row", "col"), places.T, strict=True))


def _lists(of_each_lens: Sequence[np.ndarray], k: int) -> pa.FixedSizeListArray:
    """Arrays [layers, tokens, k], one per lens, as one list per (token, layer, lens)."""
    layers, tokens, _ = of_each_lens[0].shape
    together = np.empty((tokens, layers, len(of_each_lens), k), np.result_type(*of_each_lens))
    for number, values in enumerate(of_each_lens):
        together[:, :, number] = values.swapaxes(0, 1)
    return pa.FixedSizeListArray.from_arrays(pa.array(together.reshape(-1)), k)
