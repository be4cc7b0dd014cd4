"""A small analyze run without a model: pictures of the shapes world, and lenses that know a part of the truth.

LatentLens names a right noun with a chance that grows with the layer, the others seldom. The corpus and the tokens
hold hostile words (markup, scripts, characters outside the basic plane, right-to-left marks).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from lenscore.shapes import patch_truth, read_scene, write_images
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.quantize import choose_outlier_dims, encode
from storage_layouts.results import (
    GEOMETRY_SCHEMA,
    LensResults,
    result_schema,
    write_geometry,
    write_results,
    write_tokens,
)
from storage_layouts.results import write_images as write_image_table
from storage_layouts.row_tables import write_rows_part, write_sentences
from storage_layouts.runs import Receipt, RunFolder
from storage_layouts.shards import part_name
from storage_layouts.store_layout import StoreLayout
from storage_layouts.tables import write_table
from storage_layouts.token_measures import measure_schema
from storage_layouts.verdicts import Verdict, write_verdicts

NOUNS = ["circle", "square", "star", "heart", "ring", "moon", "fish", "key", "cup", "tree", "arrow", "flag"]
HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "😀&amp;", "\u202eevil", "{{ 7*7 }}"]
LENSES, LAYERS, CONTEXTUAL_LAYERS, TOP_K, GRID = ("latent", "logit", "embedding"), (0, 2, 5), (1, 4), 3, 8
SENTENCES = [f"😀 a Shiny {noun}, there" for noun in NOUNS] + [f"see {text} now" for text in HOSTILE]
WORDS = ["Shiny", "there", "see", "now"]


def make_store(path: Path, fraction: float | None = None, separate_layers: bool = False) -> EmbeddingStore:
    """A store with one row per word that this module names, one per sentence and word.

    ``fraction``: the share of a corpus of 10,000 sentences that the store says it was made from.
    """
    places = []
    for number, text in enumerate(SENTENCES):
        for word in [*NOUNS, *WORDS, *HOSTILE]:
            if word in text:
                start = text.index(word)
                places.append((number, start, start + min(3, len(word)) if word in NOUNS else start + len(word)))
    config, inputs, facts = {"model": "made/model"}, {}, {}
    if fraction is not None:
        config |= {"fraction": fraction, "limit": None, "per_token": 20}
        inputs = {"corpus": {"files": ["/corpora/phrases.txt"], "sha256": "c0ffee" * 8}}
        facts = {"sentences_read": round(10_000 * fraction)}
    run = RunFolder.create(path, "extract", config, inputs)
    rows = len(places)
    table = {
        "row": range(rows),
        "token_id": [0] * rows,
        "token": ["t"] * rows,
        "sentence_id": [10 + 2 * number for number, _, _ in places],
        "position": [0] * rows,
        "char_start": [start for _, start, _ in places],
        "char_end": [end for _, _, end in places],
    }
    sentences = {"sentence_id": [10 + 2 * i for i in range(len(SENTENCES))], "text": SENTENCES}
    files = {"rows/part-00000.parquet": write_rows_part(path / "rows/part-00000.parquet", pa.table(table))}
    files["sentences.parquet"] = write_sentences(path / "sentences.parquet", pa.table(sentences))
    layout = StoreLayout(CONTEXTUAL_LAYERS, rows, 8, "int8", 1024, separate_layers=separate_layers)
    files |= EmbeddingStore.write_skeleton(path, layout)
    run.write_plan(rows, 1024, files, facts)
    store = EmbeddingStore.open(path, allow_incomplete=True)
    layers = []
    for layer in CONTEXTUAL_LAYERS:
        states = torch.randn(rows, 8, generator=torch.Generator().manual_seed(layer))
        dims = store.set_outlier_dims(layer, choose_outlier_dims(states))
        layers.append((layer, encode(states, "int8", dims)))
    run.write_receipt(Receipt(0, rows, store.write_shard(run.missing()[0], layers), {}))
    return EmbeddingStore.open(path)


def make_results(
    folder: Path,
    images: int = 12,
    unreadable: bool = True,
    model: str = "made/vlm",
    made_of: dict[str, object] | None = None,
    fraction: float | None = None,
    luck: int = 0,
    depth: int | None = None,
    explained: Sequence[str] = (),
    prompt: str | None = None,
    unreadable_first: int = 0,
) -> LensResults:
    """An analyze run in ``folder/run`` with its pictures and its store beside it.

    The last image is ``unreadable``, and so are ``unreadable_first`` ones before all others; a shard has five.
    ``made_of``: what `lens train` would say of the model; ``fraction`` as in `make_store`; ``luck``: another one lets
    the lenses know other patches; ``depth``: blocks of the language model; ``explained``: lenses whose explained
    variance is kept, which the caller writes.
    """
    paths = write_images(folder / "images", "validation", images) if images else []
    broken = [folder / "images" / f"broken <b>{number or ''}.png" for number in range(unreadable_first + unreadable)]
    for path in broken:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image")
    paths = [*broken[unreadable:], *paths, *broken[:unreadable]]
    store = make_store(folder / "store.zarr", fraction)
    inputs = {"store": {"path": str(store.path), "run_id": store.run.run_id}}
    config = {"model": model, "lenses": LENSES, "layers": LAYERS, "top_k": TOP_K}
    config |= {} if prompt is None else {"prompt": prompt}
    run = RunFolder.create(folder / "run", "analyze", config, inputs)
    tokens = [*NOUNS, *HOSTILE, " ", "ci"]
    table = {"token_id": range(len(tokens)), "token": [" " + token for token in tokens]}
    image_table = {
        "image_id": range(len(paths)),
        "path": [str(path) for path in paths],
        "sha256": [sha256(path.read_bytes()).hexdigest() for path in paths],
        "bytes": [path.stat().st_size for path in paths],
        "caption": [f"caption of {path.name} & <i>more</i>" if i % 2 else None for i, path in enumerate(paths)],
    }
    files = {
        "tokens.parquet": write_tokens(run.path / "tokens.parquet", pa.table(table)),
        "images.parquet": write_image_table(run.path / "images.parquet", pa.table(image_table)),
    }
    facts = {"made_of": made_of} if made_of else {}
    if explained:
        facts["explained_lenses"] = list(explained)
    run.write_plan(len(paths), 5, files, facts if depth is None else facts | {"depth": depth})
    for shard in run.missing():
        _write_shard(run, shard, paths, tokens, store, luck)
    return LensResults.open(run.path)


def _write_shard(run, shard, paths, tokens, store, luck) -> None:
    geometry, results = [], []
    texts = store.sentence_texts(store.row_table(["sentence_id"])["sentence_id"].to_pylist())
    rows_of = {noun: [row for row, text in enumerate(texts) if noun in text] for noun in NOUNS}
    for image_id in range(shard.first, shard.stop):
        if paths[image_id].suffix != ".png" or b"no image" in paths[image_id].read_bytes()[:10]:
            geometry.append(
                {"image_id": image_id, "width": 0, "height": 0, "error": "no <image>", "patches": [], "views": []}
            )
            continue
        scene, places = read_scene(paths[image_id]), []
        for n in range(GRID * GRID):
            row, col = divmod(n, GRID)
            box = {"left": col / GRID, "top": row / GRID, "right": (col + 1) / GRID, "bottom": (row + 1) / GRID}
            places.append({"position": n + 1, "view": 0, "row": row, "col": col, **box})
            rng = np.random.default_rng([image_id, n, luck] if luck else [image_id, n])
            right = sorted(patch_truth(scene, tuple(box.values())).aspects["noun"] & set(NOUNS))
            for layer in LAYERS:
                for lens in LENSES:
                    knows = rng.random() < (0.2 + 0.12 * layer if lens == "latent" else 0.05)
                    ids = rng.integers(0, len(texts) if lens == "latent" else len(tokens), TOP_K).tolist()
                    if knows and right:
                        ids[1] = int(rng.choice(rows_of[right[0]])) if lens == "latent" else NOUNS.index(right[0])
                    scores = sorted(rng.random(TOP_K).tolist(), reverse=True)
                    contexts = (
                        rng.choice(CONTEXTUAL_LAYERS, TOP_K, p=[0.3, 0.7]).tolist()
                        if lens == "latent"
                        else [-1] * TOP_K
                    )
                    place = {"image_id": image_id, "view": 0, "row": row, "col": col, "layer": layer, "lens": lens}
                    results.append(place | {"ids": ids, "scores": scores, "contextual_layers": contexts})
        views = [{"view": 0, "name": "global", "rows": GRID, "cols": GRID}]
        size = {"width": 96, "height": 96, "error": None}
        geometry.append({"image_id": image_id, **size, "patches": places, "views": views})
    geometry_name, results_name = f"geometry/part-{shard.name}.parquet", f"results/part-{shard.name}.parquet"
    files = {
        geometry_name: write_geometry(run.path / geometry_name, pa.Table.from_pylist(geometry, GEOMETRY_SCHEMA)),
        results_name: write_results(run.path / results_name, pa.Table.from_pylist(results, result_schema(TOP_K))),
    }
    run.write_receipt(Receipt(shard.index, shard.stop - shard.first, files, {}))


def with_norms(results: LensResults, sinks: set[tuple[int, int, int, int]]) -> LensResults:
    """What an analysis that keeps norms would have written: one more part a shard, named in its receipt."""
    rng = np.random.default_rng(1)
    run = results.run
    for receipt in run.receipts():
        shard = run.require_plan().shard(receipt.shard)
        geometry = results.geometry(image_ids=range(shard.first, shard.stop)).to_pylist()
        lines = []
        for image in geometry:
            for patch in image["patches"]:
                key = (image["image_id"], patch["view"], patch["row"], patch["col"])
                norms = np.exp(rng.normal(2, 0.1, len(results.layers))) * (30 if key in sinks else 1)
                lines.append([*key, norms.tolist()])
        columns = {name: [line[i] for line in lines] for i, name in enumerate(("image_id", "view", "row", "col"))}
        values = pa.array(np.array([line[4] for line in lines], np.float32).ravel())
        columns["norms"] = pa.FixedSizeListArray.from_arrays(values, len(results.layers))
        name = part_name("norms", receipt.shard)
        digest = write_table(run.path / name, pa.table(columns), measure_schema("norms", len(results.layers)))
        run.write_receipt(Receipt(receipt.shard, receipt.items, receipt.files | {name: digest}, receipt.facts))
    return LensResults.open(run.path)


def with_cosines(results: LensResults) -> LensResults:
    """What an analysis that keeps cosines would have written: one more part a shard, named in its receipt."""
    rng = np.random.default_rng(2)
    run, layers = results.run, len(results.layers)
    for receipt in run.receipts():
        shard = run.require_plan().shard(receipt.shard)
        images = results.geometry(image_ids=range(shard.first, shard.stop)).to_pylist()
        places = [(image["image_id"], p["view"], p["row"], p["col"]) for image in images for p in image["patches"]]
        columns = dict(zip(("image_id", "view", "row", "col"), zip(*places, strict=True), strict=True))
        for name in ("own", "shuffled"):
            values = rng.uniform(-1, 1, len(places) * layers).astype(np.float32)
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values), layers)
        columns["shuffled"] = _without_first(columns["shuffled"])
        name = part_name("cosines", receipt.shard)
        digest = write_table(run.path / name, pa.table(columns), measure_schema("cosines", layers))
        run.write_receipt(Receipt(receipt.shard, receipt.items, receipt.files | {name: digest}, receipt.facts))
    return LensResults.open(run.path)


def _without_first(lists: pa.FixedSizeListArray) -> pa.FixedSizeListArray:
    """The same, but for the first token, which has no other to be compared with."""
    values = lists.flatten().to_numpy().copy()
    values[: lists.type.list_size] = np.nan
    return pa.FixedSizeListArray.from_arrays(pa.array(values, from_pandas=False), lists.type.list_size)


def judge_run(folder: Path, results: LensResults, verdicts: list[Verdict], top_k: int | None = None) -> Path:
    """A judge run that said just these verdicts."""
    settings = {"judge": "made-judge", "results": str(results.path), "patches": len(verdicts), "seed": 0}
    inputs = {"results": {"path": str(results.path), "run_id": results.run.run_id}}
    run = RunFolder.create(folder, "judge", settings | {"top_k": top_k}, inputs)
    run.write_plan(1, 1, {}, {})
    digest = write_verdicts(folder / "verdicts/part-00000.jsonl", verdicts)
    run.write_receipt(Receipt(0, 1, {"verdicts/part-00000.jsonl": digest}, {}))
    return folder
