"""A synthetic analyze run of any size with photographs, and verdicts on a part of its patches; no model is needed.

Words follow Zipf's law, in another order for every image, and neighbouring patches and layers share some of them. So
an image has more different words than a real one: a hard case for every page and index.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from benchmarks.phrases import make_words, phrases
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.quantize import choose_outlier_dims, encode
from storage_layouts.results import (
    GEOMETRY_SCHEMA,
    LensResults,
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

LENSES = ("latent", "logit", "embedding")
LAYERS = (0, 1, 2, 4, 8, 16, 24, 30, 31)
CONTEXTUAL_LAYERS = (1, 2, 4, 8, 16, 24, 30, 31)
TOP_K = 5


@dataclass(frozen=True)
class Size:
    """Sizes of a run: images, side of the grid, words of the vocabulary, sentences of the corpus, shard size.

    Runs of another ``number`` have the same images and other words.
    """

    images: int = 300
    grid: int = 24
    vocabulary: int = 100_000
    sentences: int = 8_000
    images_per_shard: int = 32
    number: int = 0


def make_run(folder: Path, size: Size) -> tuple[Path, Path]:
    """Write images, a store, an analyze run and a judge run on it; returns the folders of the two runs."""
    store = _make_store(folder / "store.zarr", size)
    paths = [_photograph(folder / "images" / f"photo-{number:04d}.jpg", number) for number in range(size.images)]
    inputs = {"store": {"path": str(store.path), "run_id": store.run.run_id}}
    model = f"made/vlm-{size.number}" if size.number else "made/vlm-7b"
    config = {"model": model, "lenses": LENSES, "layers": LAYERS, "top_k": TOP_K}
    run = RunFolder.create(folder / "results", "analyze", config, inputs)
    tokens = [" " + word for word in make_words(size.vocabulary)]
    captions = list(phrases(size.images, 1, make_words()))
    images = {
        "image_id": range(size.images),
        "path": [str(path) for path in paths],
        "sha256": [sha256(path.read_bytes()).hexdigest() for path in paths],
        "bytes": [path.stat().st_size for path in paths],
        "caption": captions,
    }
    files = {
        "tokens.parquet": write_tokens(
            run.path / "tokens.parquet", pa.table({"token_id": range(len(tokens)), "token": tokens})
        ),
        "images.parquet": write_images(run.path / "images.parquet", pa.table(images)),
    }
    run.write_plan(size.images, size.images_per_shard, files, {})
    for shard in run.missing():
        _write_shard(run, shard, size, store.rows, len(tokens))
    return run.path, _judge(folder / "verdicts", LensResults.open(run.path), size)


def _make_store(path: Path, size: Size) -> EmbeddingStore:
    texts = list(phrases(size.sentences, 0, make_words()))
    words = [
        (number, found.start(), found[0]) for number, text in enumerate(texts) for found in re.finditer(r"\S+", text)
    ]
    rows = len(words)
    run = RunFolder.create(path, "extract", {"model": "made/llm-7b"}, {})
    table = {
        "row": range(rows),
        "token_id": [0] * rows,
        "token": [word for _, _, word in words],
        "sentence_id": [number for number, _, _ in words],
        "position": [0] * rows,
        "char_start": [start for _, start, _ in words],
        "char_end": [start + len(word) for _, start, word in words],
    }
    files = {"rows/part-00000.parquet": write_rows_part(path / "rows/part-00000.parquet", pa.table(table))}
    sentences = pa.table({"sentence_id": range(len(texts)), "text": texts})
    files["sentences.parquet"] = write_sentences(path / "sentences.parquet", sentences)
    shard = -(-rows // 1024) * 1024
    files |= EmbeddingStore.write_skeleton(path, StoreLayout(CONTEXTUAL_LAYERS, rows, 8, "int8", shard))
    run.write_plan(rows, shard, files, {})
    store = EmbeddingStore.open(path, allow_incomplete=True)
    states = torch.randn(rows, 8, generator=torch.Generator().manual_seed(0))
    dims = [store.set_outlier_dims(layer, choose_outlier_dims(states)) for layer in CONTEXTUAL_LAYERS]
    layers = [
        (layer, encode(states, "int8", of_layer)) for layer, of_layer in zip(CONTEXTUAL_LAYERS, dims, strict=True)
    ]
    run.write_receipt(Receipt(0, rows, store.write_shard(run.missing()[0], layers), {}))
    return EmbeddingStore.open(path)


def _photograph(path: Path, number: int) -> Path:
    """Write 640 x 480 pixels of soft noise, a file of the size of a photograph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    fine = rng.normal(0, 12, (480, 640, 1))
    Image.fromarray(np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8)).save(path, quality=80)
    return path


def _write_shard(run: RunFolder, shard: Any, size: Size, rows: int, tokens: int) -> None:
    n, blocks = size.grid * size.grid, []
    row, col = np.divmod(np.arange(n), size.grid)
    box = {"left": col, "top": row, "right": col + 1, "bottom": row + 1}
    places = [
        {"position": i + 1, "view": 0, "row": int(row[i]), "col": int(col[i])}
        | {name: float(edge[i] / size.grid) for name, edge in box.items()}
        for i in range(n)
    ]
    views = [{"view": 0, "name": "global", "rows": size.grid, "cols": size.grid}]
    geometry = []
    for image_id in range(shard.first, shard.stop):
        line = {"image_id": image_id, "width": 640, "height": 480, "error": None, "patches": places, "views": views}
        geometry.append(line)
        rng = np.random.default_rng([1, image_id, size.number] if size.number else [1, image_id])
        ids = np.stack([_ids(rng, rows if lens == "latent" else tokens, size.grid) for lens in LENSES], axis=2)
        lines = n * len(LAYERS) * len(LENSES)
        at = np.arange(lines)
        scores = np.sort(rng.random((lines, TOP_K), np.float32), axis=1)[:, ::-1]
        contexts = rng.choice(CONTEXTUAL_LAYERS, (lines, TOP_K)).astype(np.int16)
        lens = at % len(LENSES)
        contexts[lens > 0] = -1
        patch, layer = at // (len(LAYERS) * len(LENSES)), at // len(LENSES) % len(LAYERS)
        columns = {
            "image_id": np.full(lines, image_id, np.int32),
            "view": np.zeros(lines, np.int16),
            "row": row[patch].astype(np.int16),
            "col": col[patch].astype(np.int16),
            "layer": np.array(LAYERS, np.int16)[layer],
            "lens": pa.DictionaryArray.from_arrays(pa.array(lens), list(LENSES)).cast(pa.string()),
            "ids": _lists(ids.reshape(lines, TOP_K).astype(np.int32)),
            "scores": _lists(scores),
            "contextual_layers": _lists(contexts),
        }
        blocks.append(pa.table(columns, schema=result_schema(TOP_K)))
    names = part_name("results", shard.index), part_name("geometry", shard.index)
    files = {
        names[0]: write_results(run.path / names[0], pa.concat_tables(blocks)),
        names[1]: write_geometry(run.path / names[1], pa.Table.from_pylist(geometry, GEOMETRY_SCHEMA)),
    }
    run.write_receipt(Receipt(shard.index, shard.items, files, {}))


def _ids(rng: np.random.Generator, count: int, grid: int) -> np.ndarray:
    """Returns candidates ``[patches, layers, k]``: half by Zipf's law, half from a few words of the image's region."""
    shape = grid * grid, len(LAYERS), TOP_K
    order = rng.permutation(count)
    ids = order[np.minimum((count ** rng.random(shape)).astype(np.int64), count - 1)]
    row, col = np.divmod(np.arange(grid * grid), grid)
    region = (row * 4 // grid) * 4 + col * 4 // grid
    common = rng.integers(0, count, (16, 12))
    of_region = common[region[:, None, None], rng.integers(0, 12, shape)]
    return np.where(rng.random(shape) < 0.5, ids, of_region)


def _lists(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def _judge(path: Path, results: LensResults, size: Size) -> Path:
    """Write verdicts on a patch of every third image."""
    rng = np.random.default_rng(2)
    chance = {"latent": 0.7, "logit": 0.25, "embedding": 0.3}
    judged = range(0, size.images, 3)
    config = {"results": str(results.path), "judge": "made-judge", "patches": len(judged), "seed": 0, "top_k": None}
    inputs = {"results": {"path": str(results.path), "run_id": results.run.run_id}}
    run = RunFolder.create(path, "judge", config, inputs)
    run.write_plan(len(judged), max(1, len(judged)), {}, {})
    verdicts = []
    for image_id in judged:
        row, col = rng.integers(0, size.grid, 2).tolist()
        for layer in LAYERS:
            for lens in LENSES:
                fits = bool(rng.random() < chance[lens])
                place = {"image_id": image_id, "view": 0, "row": row, "col": col, "layer": layer, "lens": lens}
                reply = '{"reasoning": "r", "concrete_words": [%s], "abstract_words": [], "global_words": []}'
                verdicts.append(
                    Verdict(
                        **place,
                        control="",
                        candidates=("one", "two"),
                        outcome="yes" if fits else "no",
                        fitting=("one",) if fits else (),
                        reply=reply % ('"one"' if fits else ""),
                        judge="made-judge",
                    )
                )
    files = {"verdicts/00000.jsonl": write_verdicts(run.path / "verdicts/00000.jsonl", verdicts)}
    run.write_receipt(Receipt(0, len(judged), files, {}))
    return path
