"""Conversion of cache folders of the latentlens library to stores and back, in blocks of rows, with a check of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from storage_layouts.counts import counted
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import CorruptError, InputError
from storage_layouts.files import FileDigest, digest_file, require_own_folder
from storage_layouts.latentlens_files import (
    CACHE_FILE,
    METADATA_FILE,
    CacheLayer,
    cache_files,
    metadata_of,
    read_cache,
    read_caches,
    write_cache,
    write_cache_metadata,
)
from storage_layouts.quantize import ROWS_AT_A_TIME, Encoded, choose_outlier_dims, decode_unit, encode, joined
from storage_layouts.row_tables import write_rows_part, write_sentences
from storage_layouts.runs import Plan, Receipt, RunFolder, Shard
from storage_layouts.store_layout import StoreLayout

if TYPE_CHECKING:
    from torch import Tensor

ROWS_PER_SHARD = 8192
CALIBRATION_ROWS = 4096
LEAST_COSINE = {"float8_e4m3fn": 0.995, "int8": 0.995, "float16": 0.99999, "float32": 0.999999}
"""Lowest accepted cosine of a stored row with its original row."""

Spans = Callable[[pa.Table, pa.Table], tuple[np.ndarray, np.ndarray]]
"""(rows, sentences) -> int32 char_start [N], char_end [N]: position of each row's token in its sentence."""


@dataclass(frozen=True)
class CacheModel:
    """The model of a cache, as far as it is known.

    Attributes:
        name: folder or Hub name, "" if unknown.
        identity: its fields in run.json; at least revision and tokenizer_hash, or none.
        spans: finds the characters of each row's token.
        receipt_files: writes the file with the hash of the weights, and returns its digest (jobs.model_file).

    """

    name: str = ""
    identity: dict[str, Any] = field(default_factory=dict)
    spans: Spans = lambda rows, sentences: search_spans(rows, sentences)
    receipt_files: Callable[[RunFolder], dict[str, FileDigest]] = lambda run: {}


@dataclass(frozen=True)
class Converted:
    """Result of a conversion.

    Attributes:
        layers: the converted layers.
        rows: number of rows per layer.
        dim: width of the embeddings.
        left_out: by layer, the number of rows that another layer lacks; a store cannot hold them.
        least_cosine: lowest cosine of a converted row with its original row.
        sinks: number of attention sinks per layer, which a store leaves out of searches and a cache does not.

    """

    layers: tuple[int, ...]
    rows: int
    dim: int
    left_out: dict[int, int]
    least_cosine: float
    sinks: int = 0


def cache_to_store(
    cache: Path,
    store: Path,
    layers: Sequence[int] | None = None,
    encoding: str = "float8_e4m3fn",
    model: CacheModel | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Converted:
    """Convert a cache folder to a store; a repetition after an interruption continues.

    Rows are in the order of the cache's first layer. Rows that a layer lacks are left out of all layers.

    Args:
        cache: the cache folder.
        store: the store to write.
        layers: layers to convert; by default all.
        encoding: one of `quantize.ENCODINGS`.
        model: the model of the cache, if it is known.
        progress: called with messages.

    Raises:
        InputError: not a cache, an unsafe or unusable file, layers without common rows, a store folder that holds
            another run, or a row with a larger error than `LEAST_COSINE` allows.

    """
    model = model or CacheModel()
    files = cache_files(cache, layers)
    progress(f"reading {counted(len(files), 'layer')}")
    sources = dict(zip(files, read_caches(files.values()), strict=True))
    widths = {layer: source.embeddings.shape[1] for layer, source in sources.items()}
    if len(set(widths.values())) > 1:
        raise InputError(f"{cache}: the layers have different widths: {widths}")
    for layer, file in files.items():
        _outlier_dims(file, sources[layer])  # raises InputError before a folder is made
    digests = {file.relative_to(cache).as_posix(): str(digest_file(file)) for file in files.values()}
    settings = {"model": model.name, "cache": str(cache.resolve()), "encoding": encoding, "layers": sorted(files)}
    run = RunFolder.create(store, "extract", settings, {"cache": digests, "model": model.identity})
    places = _common_rows(cache, sources)
    if run.plan is None:
        _plan(run, cache, sources, places, encoding, model)
    opened = EmbeddingStore.open(store, allow_incomplete=True)
    count = opened.layout.outlier_count
    dims = {
        layer: opened.set_outlier_dims(layer, _outlier_dims(file, sources[layer], count))
        for layer, file in files.items()
    }
    receipt_files = model.receipt_files(run)
    for shard in run.missing():
        progress(f"writing rows {shard.first + 1:,} to {shard.stop:,} of {opened.rows:,}")
        written = opened.write_shard(shard, _encoded_layers(shard, sources, places, encoding, dims, files))
        run.write_receipt(Receipt(shard.index, shard.items, receipt_files | written))
    run.remove_leftovers()
    least = _least_cosine(store, sources, places, progress)
    if least < LEAST_COSINE[encoding]:
        raise InputError(
            f"{store}: {encoding} keeps a row of this cache with a cosine of only {least:.6f}, expected at least "
            f"{LEAST_COSINE[encoding]}; convert into another folder with --encoding float16"
        )
    left_out = {layer: len(source.embeddings) - opened.rows for layer, source in sources.items()}
    return Converted(opened.layers, opened.rows, opened.dim, {k: v for k, v in left_out.items() if v}, least)


def store_to_cache(
    store: Path,
    cache: Path,
    layers: Sequence[int] | None = None,
    dtype: str = "float16",
    progress: Callable[[str], None] = lambda message: None,
) -> Converted:
    """Convert a store to a cache folder. metadata.json is written last, so a folder that has it is complete.

    Args:
        store: the store.
        cache: the cache folder to write.
        layers: layers to convert; by default all.
        dtype: of the embeddings in the cache, by its name in torch.
        progress: called with messages.

    Raises:
        InputError: no such store or layer, or the folder already holds a cache.
        IncompleteError, CorruptError: as `EmbeddingStore.open`; CorruptError also if a written file differs when it is
            read again.

    """
    import torch
    from torch.nn.functional import cosine_similarity

    kind: torch.dtype = getattr(torch, dtype)
    opened = EmbeddingStore.open(store, layers=layers)
    if (cache / METADATA_FILE).exists():
        raise InputError(f"{cache}: holds a cache already ({METADATA_FILE}); choose a new or empty folder")
    require_own_folder(cache, "layer_*")
    chosen = tuple(opened.layers if layers is None else sorted(set(layers)))
    for layer in chosen:
        opened.outlier_dims(layer)  # raises InputError for a missing layer before the first one is written
    metadata = metadata_of(opened.row_table(), opened.sentences())
    least = 1.0
    for layer in chosen:
        progress(f"writing layer {layer}")
        file = cache / f"layer_{layer}" / CACHE_FILE
        write_cache(file, (block for _, block in _decoded(opened, layer)), opened.rows, opened.dim, kind, metadata)
        found = read_cache(file)
        for first, block in _decoded(opened, layer):
            back = found.embeddings[first : first + len(block)]
            if not torch.equal(back, block.to(kind)):
                raise CorruptError(file, f"other rows from {first} on", "what was written", "convert again")
            least = min(least, float(cosine_similarity(back.float(), block, dim=1).min()))
        if metadata_of(found.rows, found.sentences) != metadata:
            raise CorruptError(file, "other metadata", "what was written", "convert again")
    write_cache_metadata(cache, chosen, opened.dim)
    return Converted(chosen, opened.rows, opened.dim, {}, least, len(opened.sinks))


def search_spans(rows: pa.Table, sentences: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Search the text of each token in its sentence, the tokens of a sentence in order.

    For a cache whose tokenizer is unknown. If a word occurs twice, the wrong occurrence may be found; a token that is a
    part of a character has an empty span (start = end).
    """
    texts = dict(zip(sentences["sentence_id"].to_pylist(), sentences["text"].to_pylist(), strict=True))
    tokens = [token.strip() for token in rows["token"].to_pylist()]
    sentence_ids, positions = rows["sentence_id"].to_numpy(), rows["position"].to_numpy()
    start, end = np.zeros(len(tokens), np.int32), np.zeros(len(tokens), np.int32)
    before, cursor, last = -1, 0, 0
    for row in np.lexsort((positions, sentence_ids)):
        text, position = texts[int(sentence_ids[row])], int(positions[row])
        if sentence_ids[row] != before:
            before, cursor, last = sentence_ids[row], 0, position
        skipped = cursor + max(0, position - last - 1)  # each token in between has at least one character
        at = text.find(tokens[row], skipped)
        at = text.find(tokens[row], cursor) if at < 0 else at
        if at < 0 or not tokens[row]:
            start[row] = end[row] = min(cursor, len(text))
        else:
            start[row], end[row] = at, at + len(tokens[row])
            cursor = int(end[row])
        last = position
    return start, end


def _common_rows(cache: Path, sources: dict[int, CacheLayer]) -> dict[int, np.ndarray | None]:
    """By layer: its row for each row 0, 1, 2, ... of the store; None if all layers have the same rows."""
    first, *others = sources.values()
    if all(first.rows.equals(other.rows) and first.sentences.equals(other.sentences) for other in others):
        return dict.fromkeys(sources)
    places = {layer: _places(source) for layer, source in sources.items()}
    common = [key for key in next(iter(places.values())) if all(key in of_layer for of_layer in places.values())]
    if not common:
        raise InputError(f"{cache}: its layers have no row in common; convert them one by one with --layers")
    return {layer: np.array([of_layer[key] for key in common]) for layer, of_layer in places.items()}


def _places(source: CacheLayer) -> dict[tuple[object, ...], int]:
    """Row of each (token, position, sentence) of a layer; the first one of equal rows."""
    columns = [source.rows[name].to_pylist() for name in ("token_id", "token", "position")]
    captions = source.sentences["text"].take(source.rows["sentence_id"]).to_pylist()  # ids are line numbers
    places: dict[tuple[object, ...], int] = {}
    for row, key in enumerate(zip(*columns, captions, strict=True)):
        places.setdefault(key, row)
    return places


def _plan(
    run: RunFolder,
    cache: Path,
    sources: dict[int, CacheLayer],
    places: dict[int, np.ndarray | None],
    encoding: str,
    model: CacheModel,
) -> None:
    layer, source = next(iter(sources.items()))
    rows, where = source.rows, places[layer]
    if where is not None:
        rows = rows.take(pa.array(where)).set_column(0, "row", pa.array(np.arange(len(where))))
    start, end = model.spans(rows, source.sentences)
    rows = rows.append_column("char_start", pa.array(start)).append_column("char_end", pa.array(end))
    used = np.unique(rows["sentence_id"].to_numpy())
    run.settle()
    files = {
        "sentences.parquet": write_sentences(run.path / "sentences.parquet", source.sentences.take(pa.array(used)))
    }
    for shard in Plan(len(rows), ROWS_PER_SHARD).shards():
        name = f"rows/part-{shard.name}.parquet"
        files[name] = write_rows_part(run.path / name, rows.slice(shard.first, shard.items))
    attrs = {
        "model": model.name or None,
        "revision": model.identity.get("revision"),
        "tokenizer_hash": model.identity.get("tokenizer_hash"),
        "converted_from": cache.resolve().name,
    }
    dim = source.embeddings.shape[1]
    layout = StoreLayout(tuple(sorted(sources)), len(rows), dim, encoding, ROWS_PER_SHARD, attrs)
    files |= EmbeddingStore.write_skeleton(run.path, layout)
    run.write_plan(len(rows), ROWS_PER_SHARD, files, {"sentences_kept": len(used)})


def _rows_of(source: CacheLayer, places: np.ndarray | None, first: int, stop: int) -> Tensor:
    rows = slice(first, stop) if places is None else places[first:stop]
    return source.embeddings[rows].float()


def _outlier_dims(file: Path, source: CacheLayer, count: int | None = None) -> np.ndarray:
    step = max(1, len(source.embeddings) // CALIBRATION_ROWS)
    try:
        return choose_outlier_dims(source.embeddings[::step].float(), count, "a sample of the rows")
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None


def _encoded_layers(
    shard: Shard,
    sources: dict[int, CacheLayer],
    places: dict[int, np.ndarray | None],
    encoding: str,
    dims: dict[int, np.ndarray],
    files: dict[int, Path],
) -> Iterator[tuple[int, Encoded]]:
    """Every layer with the rows of a shard."""
    for layer, source in sources.items():
        bounds = range(shard.first, shard.stop, ROWS_AT_A_TIME)
        blocks = (_rows_of(source, places[layer], i, min(i + ROWS_AT_A_TIME, shard.stop)) for i in bounds)
        yield layer, _encoded(blocks, encoding, dims[layer], files[layer])


def _encoded(blocks: Iterable[Tensor], encoding: str, dims: np.ndarray, file: Path) -> Encoded:
    try:
        return joined([encode(block, encoding, dims).numpy() for block in blocks])
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None


def _decoded(store: EmbeddingStore, layer: int) -> Iterator[tuple[int, Tensor]]:
    """The unit vectors of a layer in blocks of at most `ROWS_AT_A_TIME`, with their first row; a shard is read once."""
    dims = store.outlier_dims(layer)
    for shard in store.run.require_plan().shards():
        whole = store.read_rows(layer, shard.first, shard.stop)
        for first in range(0, shard.items, ROWS_AT_A_TIME):
            yield shard.first + first, decode_unit(whole[first : first + ROWS_AT_A_TIME], store.encoding, dims)


def _least_cosine(
    store: Path,
    sources: dict[int, CacheLayer],
    places: dict[int, np.ndarray | None],
    progress: Callable[[str], None],
) -> float:
    """Lowest cosine of a stored row with its original row; reading checks every byte against the receipts."""
    from torch.nn.functional import cosine_similarity

    opened, least = EmbeddingStore.open(store), 1.0
    for layer, source in sources.items():
        progress(f"checking layer {layer}")
        for first, block in _decoded(opened, layer):
            origin = _rows_of(source, places[layer], first, first + len(block))
            least = min(least, float(cosine_similarity(block, origin, dim=1).min()))
    return least
