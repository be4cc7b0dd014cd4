"""`lens convert SRC DST`: the files of the latentlens library into ours, and ours into theirs.

    a store             -> a cache folder (layer_8/embeddings_cache.pt, ...)      and back
    results of analyze  -> a folder of JSON files, one for each lens and layer    and back

What SRC is, is seen from what it holds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from jobs.model_file import model_identity, settle_weights
from launch.exit_codes import exit_code
from launch.flags import parse
from launch.terminal import say, tell
from lenscore.cache_model import require_model_of, tokenizer_spans
from lenscore.models import absolute_model, load_model, text_weights_fingerprint
from storage_layouts.cache_conversion import CacheModel, Converted, cache_to_store, store_to_cache
from storage_layouts.errors import InputError
from storage_layouts.latentlens_files import cache_files, is_cache, read_cache
from storage_layouts.latentlens_results import result_files
from storage_layouts.other_files import what_it_is
from storage_layouts.results import LensResults
from storage_layouts.results_conversion import json_to_results, results_to_json
from storage_layouts.runs import RunFolder


@dataclass(frozen=True)
class ConvertCommand:
    """Convert between the files of the latentlens library and ours; every row is compared afterwards."""

    source: Annotated[Path, tyro.conf.Positional]
    """A store, a latentlens cache folder, results of analyze, or a folder of latentlens results (JSON)."""
    destination: Annotated[Path, tyro.conf.Positional]
    """A new or empty folder. Repeat the command after an interruption."""
    layers: str = "all"
    """Contextual layers of a store or cache: all, or numbers as in 8,16."""
    encoding: Literal["float8_e4m3fn", "int8", "float16", "float32"] = "float8_e4m3fn"
    """How a store keeps the embeddings."""
    dtype: Literal["float16", "float32", "bfloat16"] = "float16"
    """How a cache keeps the embeddings."""
    model: str = ""
    """The model that a cache was made with. It is compared with the cache, and only then analyze takes the store."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    revision: str = ""
    """Branch, tag or commit of a Hub model; by default its main branch."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return exit_code(lambda: convert(parse(ConvertCommand, argv, "lens convert")))


def convert(command: ConvertCommand) -> int:
    """Find out what the source is and convert it. Raises InputError if it is nothing that can be converted."""
    source, destination = command.source, command.destination
    layers = _layers(command.layers)
    progress: Callable[[str], None] = tell
    if (source / "run.json").exists():
        stage = RunFolder.open(source).stage
        if stage == "extract":
            dtype = getattr(torch, command.dtype)
            _report(destination, "cache", store_to_cache(source, destination, layers, dtype, progress))
            return 0
        if stage == "analyze":
            files = results_to_json(LensResults.open(source), destination, progress)
            say(f"{destination}: {files} files; each was read again and compared with {source}")
            return 0
        raise InputError(f"{source}: a run of the stage {stage!r}; expected a store or results of analyze")
    if is_cache(source):
        model = _model_of(command, layers)
        _report(destination, "store", cache_to_store(source, destination, layers, command.encoding, model, progress))
        if not command.model:
            say(
                "its words were searched for in the sentences; with --model they are known, and analyze takes the store"
            )
        return 0
    if result_files(source):
        results = json_to_results(source, destination, progress)
        layers_found, lenses = ", ".join(map(str, results.layers)), ", ".join(results.lenses)
        say(f"{destination}: results of {results.model}, lenses {lenses}, layers {layers_found}")
        return 0
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
    """The model that the user says a cache was made with, compared with the cache."""
    if not command.model:
        return CacheModel()
    model, tokenizer = load_model(
        command.model, None, None, command.trust_remote_code, revision=command.revision or None
    )
    caches = {layer: read_cache(file) for layer, file in cache_files(command.source, layers).items()}
    require_model_of(caches, model, tokenizer)
    fingerprint = text_weights_fingerprint(model)
    return CacheModel(
        absolute_model(command.model),
        model_identity(model.config, tokenizer),
        partial(tokenizer_spans, tokenizer=tokenizer),
        lambda run: settle_weights(run, fingerprint),
    )


def _report(destination: Path, kind: str, done: Converted) -> None:
    layers = ", ".join(map(str, done.layers))
    say(f"{destination}: a {kind} of {done.rows:,} rows x {done.dim} dimensions, layers {layers}")
    say(f"compared with the source: the smallest cosine of a row is {done.least_cosine:.6f}")
    for layer, rows in done.left_out.items():
        say(f"left out {rows:,} rows of layer {layer}, which other layers do not have")


if __name__ == "__main__":
    sys.exit(main())
