"""Conversion of results to the JSON files of the latentlens paper's scripts and back.

Fields that those files do not have (boxes, image files, the vocabulary, the store) are written to tables in the folder
`lenscore` beside them, so that the conversion back is lossless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import CorruptError, InputError
from storage_layouts.fields import COUNT, OBJECT, SIZE, TEXT, check_fields, list_of, optional
from storage_layouts.files import digest_file, make_folder, require_own_folder, sync_tree, write_json
from storage_layouts.latentlens_results import (
    FORMATS,
    LATENT,
    ResultsFile,
    file_text,
    image_json,
    numbers_of,
    parse_file,
    read_object,
    result_files,
    whole_numbers_of,
)
from storage_layouts.machine_errors import refuse_machine_error, writing
from storage_layouts.results import (
    GEOMETRY_SCHEMA,
    IMAGE_SCHEMA,
    TOKEN_SCHEMA,
    LensResults,
    result_schema,
    write_geometry,
    write_images,
    write_results,
    write_tokens,
)
from storage_layouts.runs import Receipt, RunFolder
from storage_layouts.shards import part_name
from storage_layouts.tables import parse_table

BESIDE = "lenscore"
ABOUT = f"{BESIDE}/about.json"
Progress = Callable[[str], None]
PatchPlaces = dict[tuple[int, int, int], tuple[int, int]]
_ABOUT = {
    **{"model": TEXT, "top_k": SIZE, "images_per_shard": SIZE, "lenses": list_of(TEXT), "store": optional(OBJECT)},
    **{"layers": list_of(COUNT), "contextual_layers": list_of(COUNT)},
}


def results_to_json(results: LensResults, folder: Path, progress: Progress = lambda message: None) -> int:
    """Write results as JSON files, a file for each lens and layer; the same results give the same bytes.

    Each file is read again and compared. Returns how many were written.

    Raises:
        InputError: the folder holds such files, a lens has no JSON form, or the store is missing.
        CorruptError: the results are damaged, or a file differs when it is read again.

    """
    if (folder / ABOUT).exists():
        raise InputError(f"{folder}: holds converted results already ({ABOUT}); choose a new or empty folder")
    require_own_folder(folder, BESIDE, *(form.file.format(layer="*", k="*") for form in FORMATS.values()))
    for lens in results.lenses:
        if lens not in FORMATS:
            raise InputError(
                f"{results.path}: no JSON form for the lens {lens!r}; expected one of {', '.join(FORMATS)}"
            )
    store = results.store() if LATENT in results.lenses else None
    if LATENT in results.lenses and store is None:
        raise InputError(f"{results.path}: names no store, so the words of its neighbours are not known")
    words = _Words(results.token_words(), store)
    images, geometry = results.images(), results.geometry()
    places = _patch_places(geometry)
    make_folder(folder / BESIDE)
    header = {
        "checkpoint": results.model,
        "contextual_dir": str(store.path) if store else None,
        "contextual_layers_used": list(results.run.require_plan().facts.get("contextual_layers") or []),
        "num_images": len(images),
        "top_k": results.top_k,
    }
    written = []
    for lens in results.lenses:
        for layer in results.layers:
            file = folder / FORMATS[lens].file.format(layer=layer, k=results.top_k)
            progress(f"writing {file.name}")
            shape = [store.dim if store else None]
            entries = _images_of(results, lens, layer, images, geometry, words, shape)
            _write(file, file_text(lens, layer, header, entries))
            _compare(results, file, lens, layer, places)
            written.append(file)
    write_images(folder / BESIDE / "images.parquet", images)
    write_geometry(folder / BESIDE / "geometry.parquet", geometry)
    tokens = {"token_id": range(len(words.tokens)), "token": words.tokens}
    write_tokens(folder / BESIDE / "tokens.parquet", pa.table(tokens))
    plan = results.run.require_plan()
    about = {
        "model": results.model,
        "lenses": list(results.lenses),
        "layers": list(results.layers),
        "top_k": results.top_k,
        "contextual_layers": header["contextual_layers_used"],
        "images_per_shard": plan.items_per_shard,
        "store": results.run.inputs.get("store"),
    }
    write_json(folder / ABOUT, about)
    return len(written)


def json_to_results(folder: Path, out: Path, progress: Progress = lambda message: None) -> LensResults:
    """Make a run of the stage analyze from a folder of `results_to_json`.

    Raises:
        InputError: no such folder, a file of it is missing or unusable, or ``out`` holds another run.

    """
    if not (folder / ABOUT).exists():
        raise InputError(
            f"{folder}: has no {ABOUT}; results of latentlens itself hold neither the image files nor the boxes of "
            "the patches, so only a folder that `lens convert` wrote can be converted back"
        )
    about = read_object(folder / ABOUT)
    check_fields(folder / ABOUT, about, _ABOUT, "convert again")
    images, geometry = images_beside(folder)
    tokens = _beside(folder, "tokens.parquet", TOKEN_SCHEMA)
    lenses, layers, k = about["lenses"], about["layers"], about["top_k"]
    files = result_files(folder)
    digests = {file.relative_to(folder).as_posix(): str(digest_file(file)) for file in files}
    facts = {name: about[name] for name in ("model", "lenses", "layers", "contextual_layers", "top_k")}
    inputs = {"files": digests} | ({"store": about["store"]} if about["store"] else {})
    places = _patch_places(geometry)
    found: dict[tuple[str, int], pa.Table] = {}
    for file in files:
        progress(f"reading {file.name}")
        parsed = parse_file(file)
        found[parsed.lens, parsed.layer] = _table_of(parsed, file, k, places)
    missing = [(lens, layer) for lens in lenses for layer in layers if (lens, layer) not in found]
    if missing:
        raise InputError(f"{folder}: the file of the lens {missing[0][0]!r}, layer {missing[0][1]}, is missing")
    run = RunFolder.create(out, "analyze", facts | {"converted_from": str(folder.resolve())}, inputs)
    order = {lens: number for number, lens in enumerate(lenses)}
    whole = pa.concat_tables([found[lens, layer] for lens in lenses for layer in layers])
    keys = [np.array([order[lens] for lens in whole["lens"].to_pylist()]), whole["layer"].to_numpy()]
    keys += [whole["place"].to_numpy(), whole["image_id"].to_numpy()]
    whole = whole.take(pa.array(np.lexsort(keys))).drop_columns(["place"])
    if run.plan is None:
        run.settle()
        written = {
            "images.parquet": write_images(run.path / "images.parquet", images),
            "tokens.parquet": write_tokens(run.path / "tokens.parquet", tokens),
        }
        run.write_plan(len(images), about["images_per_shard"], written, facts)
    _write_shards(run, whole, geometry)
    return LensResults.open(out)


def images_beside(folder: Path) -> tuple[pa.Table, pa.Table]:
    """Images and geometry as written by `results_to_json`. InputError if they cannot be read."""
    return _beside(folder, "images.parquet", IMAGE_SCHEMA), _beside(folder, "geometry.parquet", GEOMETRY_SCHEMA)


def _beside(folder: Path, name: str, schema: pa.Schema) -> pa.Table:
    file = folder / BESIDE / name
    try:
        data = file.read_bytes()
    except OSError as error:
        refuse_machine_error(file, error)
        raise InputError(f"{file}: cannot be read ({error.strerror}); convert again") from None
    return parse_table(file, data, schema)


def _write_shards(run: RunFolder, results: pa.Table, geometry: pa.Table) -> None:
    for shard in run.missing():
        parts = []
        for table in (results, geometry):
            ids = table["image_id"].to_numpy()
            parts.append(table.filter(pa.array((ids >= shard.first) & (ids < shard.stop))))
        names = part_name("results", shard.index), part_name("geometry", shard.index)
        files = {
            names[0]: write_results(run.path / names[0], parts[0]),
            names[1]: write_geometry(run.path / names[1], parts[1]),
        }
        run.write_receipt(Receipt(shard.index, shard.items, files))


class _Words:
    """The words of ids, as the files of each lens hold them."""

    def __init__(self, tokens: list[str], store: EmbeddingStore | None) -> None:
        self.tokens = tokens
        self._rows = store.row_table(["token", "token_id", "sentence_id", "position"]) if store else None
        self._store = store

    def of(self, lens: str, ids: np.ndarray) -> dict[int, dict[str, Any]]:
        """The fields of each id in a file, without its score."""
        asked = np.unique(ids)
        if lens != LATENT:
            return {number: {"token": self.tokens[number], "token_id": number} for number in asked.tolist()}
        assert self._rows is not None
        assert self._store is not None
        rows = self._rows.take(pa.array(asked)).to_pylist()
        captions = self._store.sentence_texts(row["sentence_id"] for row in rows)
        return {
            number: {
                "token_str": row["token"],
                "token_id": row["token_id"],
                "caption": caption,
                "position": row["position"],
                "row": number,
            }
            for number, row, caption in zip(asked.tolist(), rows, captions, strict=True)
        }


def _images_of(
    results: LensResults,
    lens: str,
    layer: int,
    images: pa.Table,
    geometry: pa.Table,
    words: _Words,
    width: list[int | None],
) -> Iterator[dict[str, Any]]:
    """The entries of a file: every readable image, with its views as chunks."""
    captions, key, score = images["caption"].to_pylist(), FORMATS[lens].key, FORMATS[lens].score
    for shard in results.run.require_plan().shards():
        table = results.results(lens, layer, range(shard.first, shard.stop))
        described = words.of(lens, table["ids"].combine_chunks().flatten().to_numpy())
        found = {
            (line["image_id"], line["view"], line["row"], line["col"]): [
                described[number] | {score: value} | ({"contextual_layer": at} if lens == LATENT else {})
                for number, value, at in zip(line["ids"], line["scores"], line["contextual_layers"], strict=True)
            ]
            for line in table.to_pylist()
        }
        for line in geometry.slice(shard.first, shard.items).to_pylist():
            if line["error"] is not None:
                continue
            image, chunks = line["image_id"], []
            for number, view in enumerate(line["views"]):
                places = [patch for patch in line["patches"] if patch["view"] == view["view"]]
                patches = [
                    {
                        "patch_idx": index,
                        "patch_row": place["row"],
                        "patch_col": place["col"],
                        key: found[image, place["view"], place["row"], place["col"]],
                    }
                    for index, place in enumerate(places)
                ]
                chunks.append({"chunk_name": f"Chunk {number}" if number else "Full Image", "patches": patches})
            most = max((len(chunk["patches"]) for chunk in chunks), default=0)
            yield image_json(lens, layer, image, captions[image] or "", [1, len(chunks), most, *width], chunks)


def _patch_places(geometry: pa.Table) -> PatchPlaces:
    """By (image, chunk, patch) of the files: the index among the image's patches, and the view."""
    places = {}
    for line in geometry.to_pylist():
        for number, view in enumerate(line["views"]):
            of_view = [place for place, patch in enumerate(line["patches"]) if patch["view"] == view["view"]]
            for index, place in enumerate(of_view):
                places[line["image_id"], number, index] = (place, view["view"])
    return places


def _table_of(parsed: ResultsFile, file: Path, k: int, places: PatchPlaces) -> pa.Table:
    """The lines of one file as in `result_schema`, with their index among the image's patches."""
    number_name = "row" if parsed.lens == LATENT else "token_id"
    lines = []
    for patch in parsed.patches:
        if (patch.image, patch.chunk, patch.patch) not in places or len(patch.candidates) != k:
            raise InputError(
                f"{file}: image {patch.image}, chunk {patch.chunk}, patch {patch.patch}: found {len(patch.candidates)} "
                f"candidates, expected {k}, at a patch of {BESIDE}/geometry.parquet"
            )
        place, view = places[patch.image, patch.chunk, patch.patch]
        line = {
            "image_id": patch.image,
            "view": view,
            "row": patch.row,
            "col": patch.col,
            "layer": parsed.layer,
            "lens": parsed.lens,
            "ids": whole_numbers_of(patch, number_name, file),
            "scores": numbers_of(patch, FORMATS[parsed.lens].score, file),
            "contextual_layers": whole_numbers_of(patch, "contextual_layer", file, -1, 2**15),
            "place": place,
        }
        lines.append(line)
    return pa.Table.from_pylist(lines, schema=result_schema(k).append(pa.field("place", pa.int32())))


def _write(file: Path, pieces: Iterator[str]) -> None:
    aside = file.with_name(f".{file.name}.partial")
    with writing(file), ExitStack() as at_end:
        at_end.callback(aside.unlink, missing_ok=True)
        with aside.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(pieces)
        sync_tree([aside])
        aside.replace(file)
        sync_tree([file])


def _compare(results: LensResults, file: Path, lens: str, layer: int, places: PatchPlaces) -> None:
    """Raises CorruptError if the content of the file differs from the results that it was made from."""
    parsed = parse_file(file)
    found = _table_of(parsed, file, results.top_k, places).drop_columns(["place"])
    expected = results.results(lens, layer)
    keys = [("image_id", "ascending"), ("view", "ascending"), ("row", "ascending"), ("col", "ascending")]
    if not found.sort_by(keys).equals(expected.sort_by(keys)):
        raise CorruptError(file, "other candidates", f"those of {results.path}", "convert again")
