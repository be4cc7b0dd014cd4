"""The steps of a sharpen run in its tables, and the sample of patches in its plan."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lenscore.index.row_words import RowWord
from lenscore.index.topk import TopK
from lenscore.judging.patches import PatchRef
from lenscore.sharpening.growing_search import SearchStep
from lenscore.sharpening.sharpening_rounds import Search, Searched
from storage_layouts.files import FileDigest, json_bytes, write_atomic
from storage_layouts.runs import RunFolder
from storage_layouts.sharpening_steps import read_tables, schemas, write_tables
from storage_layouts.tables import matrix_of_lists

SAMPLE = "sample.json"
"""The patches of a run."""


def write_sample(run: RunFolder, patches: Sequence[PatchRef]) -> dict[str, FileDigest]:
    """Write the patches of a run; returns the digest for its plan."""
    return {SAMPLE: write_atomic(run.path / SAMPLE, json_bytes({"patches": list(map(dataclasses.asdict, patches))}))}


def sample_of(run: RunFolder) -> list[PatchRef]:
    """The patches of a planned run."""
    places = json.loads(run.read_plan_file(SAMPLE))["patches"]
    return [PatchRef(**{**place, "box": tuple(place["box"])}) for place in places]


def planned_searches(run: RunFolder) -> list[Search]:
    """The searches of a planned run: those of its shards."""
    return [Search(*one) for one in run.require_plan().facts["searches"]]


def write_step(run: RunFolder, shard: int, step: SearchStep) -> dict[str, FileDigest]:
    """Write what a shard found; returns digests for its receipt."""
    k = step.top.ids.shape[1]
    kinds = schemas(k)
    best = (pa.FixedSizeListArray.from_arrays(pa.array(part.numpy().reshape(-1)), k) for part in step.top)
    words: list[list[Any]] = [list(step.described), *map(list, zip(*step.described.values(), strict=True))]
    columns: dict[str, list[Any]] = {"new": [list(step.new)], "hashes": [step.hashes], "best": [*best], "words": words}
    tables = {name: pa.table(columns[name], schema=schema) for name, schema in kinds.items()}
    return write_tables(run.path, shard, k, tables)


def read_step(run: RunFolder, shard: int) -> SearchStep:
    """What a shard found. IncompleteError if it is not done; CorruptError if a file was changed."""
    tables = read_tables(run, shard, run.require_plan().facts["top_k"])
    top = TopK(*(torch.from_numpy(np.array(matrix_of_lists(column))) for column in tables["best"].columns))
    row, *words = (column.to_pylist() for column in tables["words"].columns)
    described = dict(zip(row, map(RowWord, *words), strict=True))
    return SearchStep(tables["new"]["sentence"].to_pylist(), tables["hashes"]["hash"].to_numpy(), top, described)


def searched_in(run: RunFolder) -> Iterator[Searched]:
    """The searches of a complete run, in their order."""
    searches, patches = planned_searches(run), len(sample_of(run))
    at = {search: shard for shard, search in enumerate(searches)}

    @cache
    def step_of(search: Search) -> SearchStep:
        return read_step(run, at[search])

    for search in searches:
        yield Searched.of(search, [step_of(one) for one in search.arm], patches)
