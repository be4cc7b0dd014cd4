"""A small run of every stage, written through the public functions; built once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.quantize import choose_outlier_dims, encode
from storage_layouts.results import (
    GEOMETRY_SCHEMA,
    result_schema,
    write_geometry,
    write_images,
    write_results,
    write_tokens,
)
from storage_layouts.row_tables import write_rows_part, write_sentences
from storage_layouts.runs import Receipt, RunFolder
from storage_layouts.shards import part_name
from storage_layouts.store_layout import StoreLayout
from storage_layouts.verdicts import Verdict, write_verdicts

ROWS, DIM, LAYERS, PER_SHARD = 50, 24, (1, 12), 20


def row_table(rows: int) -> pa.Table:
    return pa.table(
        {
            "row": range(rows),
            "token_id": [row % 7 for row in range(rows)],
            "token": [f"tök{row % 7}" for row in range(rows)],
            "sentence_id": [row * 3 for row in range(rows)],
            "position": [1] * rows,
            "char_start": [0] * rows,
            "char_end": [4] * rows,
        }
    )


def build_store(
    path: Path,
    encoding: str = "float8_e4m3fn",
    rows: int = ROWS,
    dim: int = DIM,
    per_shard: int = PER_SHARD,
    shards: slice = slice(None),
    separate: bool = False,
) -> dict[int, torch.Tensor]:
    """Write a store (or some of its shards); returns the states by layer."""
    layout = StoreLayout(LAYERS, rows, dim, encoding, per_shard, {"model": "tiny"}, separate_layers=separate)
    run = RunFolder.create(path, "extract", {"model": "tiny", "rows": rows}, {"corpus": "1234"})
    files = EmbeddingStore.write_skeleton(path, layout)
    table, half = row_table(rows), rows // 2
    for part, rows_of_part in enumerate((table[:half], table[half:])):
        name = f"rows/part-{part:05d}.parquet"
        files[name] = write_rows_part(path / name, rows_of_part)
    sentences = pa.table({"sentence_id": [row * 3 for row in range(rows)], "text": [f"text {r}" for r in range(rows)]})
    files["sentences.parquet"] = write_sentences(path / "sentences.parquet", sentences)
    run.write_plan(rows, per_shard, files, {})
    store = EmbeddingStore.open(path, allow_incomplete=True)
    generator = torch.Generator().manual_seed(0)
    states = {layer: torch.randn(rows, dim, generator=generator) for layer in LAYERS}
    for layer in LAYERS:
        states[layer][:, 3 % dim] *= 1000
    for shard in run.plan.shards()[shards]:
        dims = {layer: store.set_outlier_dims(layer, choose_outlier_dims(states[layer])) for layer in LAYERS}
        layers = [(layer, encode(states[layer][shard.first : shard.stop], encoding, dims[layer])) for layer in LAYERS]
        run.write_receipt(Receipt(shard.index, shard.items, store.write_shard(shard, layers)))
    return states


def result_lines(first: int, stop: int) -> list[dict]:
    return [
        {
            "image_id": image,
            "view": 0,
            "row": 0,
            "col": col,
            "layer": layer,
            "lens": lens,
            "ids": [image, col, layer],
            "scores": [0.5, 0.25 + col, 0.1],
            "contextual_layers": [1, 12, 1] if lens == "latent" else [-1, -1, -1],
        }
        for image in range(first, stop)
        for col in range(2)
        for layer in (0, 3)
        for lens in ("latent", "logit")
    ]


def geometry_lines(first: int, stop: int) -> list[dict]:
    box = {"left": 0.0, "top": 0.0, "right": 0.5, "bottom": 1.0}
    patches = [{"position": 5 + col, "view": 0, "row": 0, "col": col, **box} for col in range(2)]
    views = [{"view": 0, "name": "global", "rows": 1, "cols": 2}]
    return [
        {"image_id": image, "width": 20, "height": 10, "error": None, "patches": patches, "views": views}
        for image in range(first, stop)
    ]


def build_analyze(
    path: Path, store: Path | None = None, images: int = 5, per_shard: int = 2, tokens: Sequence[str] = ("a", "▁b")
) -> None:
    config = {"model": "tiny-vlm", "lenses": ["latent", "logit"], "layers": "paper", "top_k": 3}
    inputs = {} if store is None else {"store": {"path": str(store), "run_id": RunFolder.open(store).run_id}}
    run = RunFolder.create(path, "analyze", config, inputs)
    table = pa.table(
        {
            "image_id": range(images),
            "path": [f"bild {i}.png" for i in range(images)],
            "sha256": ["00"] * images,
            "bytes": [10] * images,
            "caption": pa.array([None] * images, pa.string()),
        }
    )
    files = {
        "images.parquet": write_images(path / "images.parquet", table),
        "tokens.parquet": write_tokens(
            path / "tokens.parquet", pa.table({"token_id": range(len(tokens)), "token": list(tokens)})
        ),
    }
    run.write_plan(images, per_shard, files, {"layers": [0, 3]})
    for shard in run.missing():
        results = pa.Table.from_pylist(result_lines(shard.first, shard.stop), schema=result_schema(3))
        geometry = pa.Table.from_pylist(geometry_lines(shard.first, shard.stop), schema=GEOMETRY_SCHEMA)
        name, place = part_name("results", shard.index), part_name("geometry", shard.index)
        written = {name: write_results(path / name, results), place: write_geometry(path / place, geometry)}
        run.write_receipt(Receipt(shard.index, shard.items, written))


def a_verdict(image: int, **changed: object) -> Verdict:
    fields = {"view": 0, "row": 0, "col": 1, "layer": 3, "lens": "latent", "control": "", "outcome": "yes"}
    words = {"candidates": ("Hund", "犬\n"), "fitting": ("Hund",), "usage": {"cost": 0.25}, "judge": "truth"}
    return Verdict(**{"image_id": image, **fields, **words, **changed})


def build_judge(path: Path, images: int = 3) -> None:
    run = RunFolder.create(path, "judge", {"judge": "truth"}, {"results": {"path": "/results", "run_id": "abcd"}})
    run.write_plan(images, 1, {}, {})
    for shard in run.missing():
        name = f"verdicts/part-{shard.name}.jsonl"
        digest = write_verdicts(path / name, [a_verdict(shard.first), a_verdict(shard.first, outcome="no")])
        run.write_receipt(Receipt(shard.index, shard.items, {name: digest}))


@pytest.fixture(scope="session")
def small_runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A complete run of each stage; tests that damage them put every byte back."""
    folder = tmp_path_factory.mktemp("runs")
    runs = SimpleNamespace(store=folder / "store.zarr", analyze=folder / "results", judge=folder / "verdicts")
    runs.states = build_store(runs.store)
    build_analyze(runs.analyze, runs.store)
    build_judge(runs.judge)
    return runs


@pytest.fixture(scope="session")
def builders() -> SimpleNamespace:
    return SimpleNamespace(
        store=build_store,
        analyze=build_analyze,
        judge=build_judge,
        verdict=a_verdict,
        result_lines=result_lines,
        geometry_lines=geometry_lines,
        row_table=row_table,
        shape=(ROWS, DIM, LAYERS, PER_SHARD),
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
