"""The tables of an analyze run from the results of its batches, without a loop over patches and layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from lenscore.analysis.engine import BatchResults
from storage_layouts.results import GEOMETRY_SCHEMA, result_schema
from storage_layouts.token_measures import measure_schema


def results_table(findings: Sequence[BatchResults], lenses: Sequence[str], layers: Sequence[int], k: int) -> pa.Table:
    """One line per (image, patch, layer, lens), in this order, with the top k."""
    batches = [_results_of(found, lenses, layers, k) for found in findings if found.image_ids]
    return pa.concat_tables([result_schema(k).empty_table(), *batches])


def _results_of(found: BatchResults, lenses: Sequence[str], layers: Sequence[int], k: int) -> pa.Table:
    patches = _places(found)
    each = len(layers) * len(lenses)
    image_id, view, row, col = np.repeat(patches, each, axis=0).T
    tops = [found.tops[lens] for lens in lenses]
    columns = {
        "image_id": image_id,
        "view": view,
        "row": row,
        "col": col,
        "layer": np.tile(np.repeat(layers, len(lenses)), len(patches)),
        "lens": np.tile(np.array(lenses, dtype=object), len(patches) * len(layers)),
        "ids": _lists([top.ids.numpy() for top in tops], k),
        "scores": _lists([top.scores.numpy() for top in tops], k),
        "contextual_layers": _lists([top.contextual_layers.numpy() for top in tops], k),
    }
    return pa.table({name: pa.array(column) for name, column in columns.items()}).cast(result_schema(k))


def norms_table(findings: Sequence[BatchResults], layers: int) -> pa.Table:
    """One line per (image, patch): the norm of its hidden state at each of ``layers`` visual layers."""
    return _by_patch(measure_schema("norms", layers), [(found, [found.norms]) for found in findings])


def cosines_table(findings: Sequence[BatchResults], layers: int) -> pa.Table:
    """One line per (image, patch): its own and shuffled cosines at each of ``layers`` visual layers."""
    measured = [(found, [found.own_cosines, found.shuffled_cosines]) for found in findings]
    return _by_patch(measure_schema("cosines", layers), measured)


def _by_patch(schema: pa.Schema, measured: Iterable[tuple[BatchResults, Sequence[Tensor]]]) -> pa.Table:
    """One line per (image, patch): its place, then for each tensor [layers, tokens] a list over the layers."""
    tables = [schema.empty_table()]
    for found, tensors in measured:
        columns = [pa.array(column) for column in _places(found).T]
        for tensor in tensors:
            values = pa.array(np.ascontiguousarray(tensor.numpy().T).reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(values, tensor.shape[0]))
        tables.append(pa.table(columns, schema.names).cast(schema))
    return pa.concat_tables(tables)


def _places(found: BatchResults) -> np.ndarray:
    """Image, view, row and column of every patch: int32 [tokens, 4]."""
    patches = [
        (image_id, patch.view, patch.row, patch.col)
        for image_id, geometry in zip(found.image_ids, found.geometries, strict=True)
        for patch in geometry.patches
    ]
    return np.array(patches, np.int32).reshape(-1, 4)


def _lists(of_each_lens: Sequence[np.ndarray], k: int) -> pa.FixedSizeListArray:
    """Arrays [layers, tokens, k], one per lens, as one list per (token, layer, lens)."""
    together = np.stack(of_each_lens, axis=2).swapaxes(0, 1)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(together).reshape(-1)), k)


def geometry_table(image_ids: Iterable[int], findings: Sequence[BatchResults]) -> pa.Table:
    """One line per image: its size, views and patches, or the error of an unreadable one."""
    reasons = {i: reason for found in findings for i, reason in found.unreadable.items()}
    known = {i: geometry for found in findings for i, geometry in zip(found.image_ids, found.geometries, strict=True)}
    lines = []
    for i in image_ids:
        line: dict[str, Any] = {"image_id": i, "error": reasons.get(i), "patches": [], "views": []}
        if i in known:
            line |= vars(known[i])
            line |= {name: [vars(part) for part in line[name]] for name in ("patches", "views")}
        lines.append(line)
    return pa.Table.from_pylist(lines, schema=GEOMETRY_SCHEMA)
