"""`lens convert SRC DST`: between the files of the latentlens library and those of lenscore.

    a store             -> a cache folder (layer_8/embeddings_cache.pt, ...)      and back
    results of analyze  -> a folder of JSON files, one for each lens and layer    and back

The kind of SRC is detected from its contents.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from launch.exit_codes import exit_code
from launch.flags import parse
from launch.progress import StageProgress
from launch.terminal import Terminal, print_out, shown
from lenscore.models.source import absolute_model, hub_repository
from storage_layouts.counts import counted
from storage_layouts.errors import InputError
from storage_layouts.files import require_place
from storage_layouts.other_files import what_it_is
from storage_layouts.runs import RunFolder

if TYPE_CHECKING:
    from storage_layouts.cache_conversion import CacheModel, Converted


@dataclass(frozen=True)
class ConvertCommand:
    """Convert between the files of the latentlens library and those of lenscore, and compare every row afterwards."""

    source: Annotated[Path, tyro.conf.Positional]
    """A store, a latentlens cache folder, results of analyze, or a folder of latentlens results (JSON). Of a store or
    cache on the Hub, hf:REPO or hf:REPO@REVISION, these layers are downloaded."""
    destination: Annotated[Path, tyro.conf.Positional]
    """A new or empty folder. Repeat the command after an interruption."""
    layers: str = "all"
    """Contextual layers of a store or cache: all, or numbers as in 8,16."""
    encoding: Literal["float8_e4m3fn", "int8", "float16", "float32"] = "float8_e4m3fn"
    """Encoding of the embeddings in a store. int8 takes as many bytes as float8 and finds more of the true neighbours;
    float16 takes twice as many and finds nearly all (docs/performance.md has the table)."""
    dtype: Literal["float16", "float32", "bfloat16"] = "float16"
    """Dtype of the embeddings in a cache."""
    model: str = ""
    """The model that a cache was made with. It is compared with the cache; analyze needs it to use the store."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    revision: str = ""
    """Branch, tag or commit of a Hub model; by default its main branch."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""

    def run() -> int:
        command = parse(ConvertCommand, argv, "lens convert")
        with StageProgress(Terminal(stderr=True), "convert") as progress:
            lines = convert(command, progress.say)
        print_out("\n".join(lines))
        return 0

    return exit_code(run)


def convert(command: ConvertCommand, progress: Callable[[str], None]) -> list[str]:
    """Detect the kind of the source and convert it. Returns lines that describe the result.

    Raises InputError if the source cannot be converted.
    """
    destination = shown(command.destination)
    require_place(destination)
    layers = _layers(command.layers)
    source = command.source
    if named := hub_repository(source, "lens convert"):
        from lenscore.index.hub import download_layers

        progress(f"downloading {source}")
        source, _ = download_layers(named[0], layers, revision=named[1])
        command = replace(command, source=source)
    # Imported after the flags were read, because they load pyarrow.
    from storage_layouts.cache_conversion import cache_to_store, store_to_cache
    from storage_layouts.latentlens_files import is_cache
    from storage_layouts.latentlens_results import result_files
    from storage_layouts.results import LensResults
    from storage_layouts.results_conversion import json_to_results, results_to_json

    if (source / "run.json").exists():
        stage = RunFolder.open(source).stage
        if stage == "extract":
            done = store_to_cache(source, destination, layers, command.dtype, progress)
            return _lines(destination, "cache", done)
        if stage == "analyze":
            files = results_to_json(LensResults.open(source), destination, progress)
            return [f"{destination}: {counted(files, 'file')}; each was read again and compared with {source}"]
        raise InputError(f"{source}: a run of the stage {stage!r}; expected a store or results of analyze")
    if is_cache(source):
        model = _model_of(command, layers)
        done = cache_to_store(source, destination, layers, command.encoding, model, progress)
        lines = _lines(destination, "store", done)
        if not command.model:
            lines.append("its tokens were searched for in the sentences; with --model analyze can use the store")
        return lines
    if result_files(source):
        results = json_to_results(source, destination, progress)
        layers_found, lenses = ", ".join(map(str, results.layers)), ", ".join(results.lenses)
        return [f"{destination}: results of {results.model}, lenses {lenses}, layers {layers_found}"]
    expected = "a store, results, or the files of the latentlens library"
    raise InputError(f"{source}: {what_it_is(source)}; expected {expected}")


def _layers(text: str) -> list[int] | None:
    if text == "all":
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--layers {text!r}: expected all, or numbers as in 8,16") from None


def _model_of(command: ConvertCommand, layers: list[int] | None) -> CacheModel:
    """Returns the model of --model after comparing it with the cache."""
    from storage_layouts.cache_conversion import CacheModel
    from storage_layouts.latentlens_files import cache_files, read_caches

    if not command.model:
        return CacheModel()
    from jobs.model_file import model_identity, record_or_check_weights
    from lenscore.analysis.latentlens_cache_check import require_model_of, tokenizer_spans
    from lenscore.models.fingerprints import text_weights_fingerprint
    from lenscore.models.loading import load_model

    model, tokenizer = load_model(
        command.model, None, None, command.trust_remote_code, revision=command.revision or None
    )
    files = cache_files(command.source, layers)
    caches = dict(zip(files, read_caches(files.values()), strict=True))
    require_model_of(caches, model, tokenizer)
    fingerprint = text_weights_fingerprint(model)
    return CacheModel(
        absolute_model(command.model),
        model_identity(model.config, tokenizer),
        partial(tokenizer_spans, tokenizer=tokenizer),
        lambda run: record_or_check_weights(run, fingerprint),
    )


def _lines(destination: Path, kind: str, done: Converted) -> list[str]:
    """Returns lines on the result: its size, its distance from the source, and the rows that were left out."""
    layers = ", ".join(map(str, done.layers))
    return [
        f"{destination}: a {kind} of {counted(done.rows, 'row')} x {done.dim} dimensions, layers {layers}",
        f"compared with the source: the smallest cosine of a row is {done.least_cosine:.6f}",
        *(
            f"left out {counted(rows, 'row')} of layer {layer}, which other layers do not have"
            for layer, rows in done.left_out.items()
        ),
        *([f"{counted(done.sinks, 'row')} are attention sinks: searches of a cache find them"] if done.sinks else []),
    ]


if __name__ == "__main__":
    sys.exit(main())
