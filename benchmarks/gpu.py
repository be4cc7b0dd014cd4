"""One GPU with a model of the size of a 7B: extraction of 3 M phrases, search, and the analysis of 36 images.

    python -m benchmarks.gpu                                  # one H200; about 25 GB of disk, no network
    python -m benchmarks.gpu --only extract --most-seconds 400
    python -m benchmarks.gpu --small --device cpu             # the same code on tiny sizes: does it run?

All weights are random, made on the device; phrases have the published length and token statistics. `--most-seconds`
stops the extraction after the current shard; the table then shows the number of finished shards, without an
extrapolation. Correctness is checked by the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from benchmarks.measuring import interleaved, machine, markdown_table, peak_mib, timing_table
from benchmarks.phrases import PUBLISHED_PHRASES, make_model, make_tokenizer, write_phrases
from jobs.extract_job import ExtractJob
from lenscore.analysis.engine import AnalysisEngine
from lenscore.images.image_files import find_images
from lenscore.index.contextual_index import ContextualIndex, QuantizedLayer
from lenscore.lenses import LENSES, build_lenses
from lenscore.models.layers import paper_layers
from lenscore.models.loading import Vlm
from storage_layouts.quantize import Encoded


@dataclass(frozen=True)
class Size:
    """Sizes of models, corpus and images."""

    phrases: int
    dim: int
    blocks: int
    heads: int
    rows: int
    images: int
    pixels: int
    vision_dim: int
    vision_blocks: int
    dtype: torch.dtype
    patch: int = 14


H200 = Size(PUBLISHED_PHRASES, 4096, 32, 32, 300_000, 36, 336, 1024, 24, torch.bfloat16)
SMALL = Size(3_000, 64, 8, 4, 3_000, 3, 56, 32, 2, torch.float32)
TOP_K = 5


def settle(device: str) -> None:
    """Wait until the device has finished."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure_extraction(size: Size, device: str, folder: Path, most_seconds: float) -> str:
    """The phrases from a text file to a store on disk, by one worker."""
    tokenizer = make_tokenizer()
    with torch.device(device):
        model = make_model(len(tokenizer), size.dim, size.blocks, size.heads, size.dtype)
    model.config.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    corpus = write_phrases(folder / "corpus.txt", size.phrases)
    job = ExtractJob(str(folder / "model"), (corpus,), folder / "store.zarr")
    began = time.perf_counter()
    run = job.open_run()
    job.plan(run, lambda message: None)
    planned = time.perf_counter()
    plan = run.require_plan()
    # Writing and reading 14 GB of random weights would measure the disk.
    with patch("jobs.extract_job.text_model_of", lambda *_, **__: (model, tokenizer)):
        worker = job.open_worker(run, device)
    opened = time.perf_counter()
    done, rows = 0, 0
    for shard in plan.shards():
        run.write_receipt(worker.run(shard))
        done, rows = done + 1, rows + shard.items
        if time.perf_counter() - opened > most_seconds:
            break
    ended = time.perf_counter()
    layout = f"{plan.items:,} rows, {len(paper_layers(size.blocks, visual=False))} layers, width {size.dim}"
    return f"{size.phrases:,} phrases, {layout}; {done} of {plan.shard_count} shards were done\n\n" + markdown_table(
        ["what", "s"],
        [
            ["planning", planned - began],
            ["opening the worker, without loading weights", opened - planned],
            [f"{done} shards, {rows:,} rows, computed, quantised, written and flushed", ended - opened],
            ["a shard", (ended - opened) / done],
            ["all of this", ended - began],
        ],
    )


def random_index(size: Size, device: str) -> ContextualIndex:
    """Returns random codes in the default encoding at the contextual layers of the paper."""
    generator = torch.Generator(device).manual_seed(0)
    codes = {}
    for layer in paper_layers(size.blocks, visual=False):
        whole = torch.empty(size.rows, size.dim, dtype=torch.uint8, device=device)
        for part in whole.split(1 << 14):
            numbers = torch.randn(part.shape, generator=generator, device=device)
            part.copy_(numbers.to(torch.float8_e4m3fn).view(torch.uint8))
        outliers = torch.full((size.rows, 8), 0.05, device=device)
        ones = torch.full((size.rows,), size.dim**-0.5, device=device)
        encoded = Encoded(whole, outliers, ones, ones)
        codes[layer] = QuantizedLayer(encoded, "float8_e4m3fn", np.arange(8, dtype=np.int32))
    return ContextualIndex(codes)


def measure_search(size: Size, device: str, runs: int) -> str:
    """Measure the search of the tokens of an image, at all visual layers in all contextual ones, and the products."""
    index = random_index(size, device)
    visual = len(paper_layers(size.blocks, visual=True))
    tokens = (size.pixels // size.patch) ** 2
    queries = torch.randn(visual * tokens, size.dim, device=device)
    half = queries.to(torch.bfloat16 if device.startswith("cuda") else torch.float32)
    block = torch.randn(min(size.rows, 1 << 14), size.dim, device=device).to(half.dtype)
    last = size.rows % len(block)

    def products() -> None:
        for _ in index.available_layers:
            for _ in range(size.rows // len(block)):
                torch.mm(half, block.T)
            if last:
                torch.mm(half, block[:last].T)
        settle(device)

    def search() -> None:
        index.top(queries, TOP_K)
        settle(device)

    products()  # the first call of a kernel loads it
    search()
    timings = interleaved({"bare products": products, "search": search}, runs)
    what = f"{len(queries):,} queries x {len(index.available_layers)} layers x {size.rows:,} rows x {size.dim}"
    return f"{what}; products in {half.dtype}\n\n" + timing_table(timings, "bare products")


def random_vlm(size: Size, device: str) -> Vlm:
    """Returns a LLaVA-1.5 of this size with random weights."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    with torch.device("meta"):
        text = make_model(len(tokenizer), size.dim, size.blocks, size.heads, size.dtype).config
    vision = CLIPVisionConfig(
        hidden_size=size.vision_dim,
        intermediate_size=4 * size.vision_dim,
        num_hidden_layers=size.vision_blocks,
        num_attention_heads=max(1, size.vision_dim // 64),
        image_size=size.pixels,
        patch_size=size.patch,
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=image_token,
        image_seq_length=(size.pixels // size.patch) ** 2,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlavaForConditionalGeneration(config).to(size.dtype).eval()
    side = {"height": size.pixels, "width": size.pixels}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": size.pixels}, crop_size=side),
        tokenizer=tokenizer,
        patch_size=size.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )
    return Vlm("random", model, tokenizer, processor)


def measure_analysis(size: Size, device: str, folder: Path) -> str:
    """Measure one worker on image files, with three lenses at every visual layer of the paper."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(size.images):
        pixels = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:03d}.jpg")
    vlm, index = random_vlm(size, device), random_index(size, device)
    layers = paper_layers(size.blocks, visual=True)
    lenses = build_lenses([LENSES[name] for name in ("latent", "logit", "embedding")], vlm, index, None)
    engine = AnalysisEngine(vlm, lenses, layers, TOP_K, "Describe this image.", batch_size=min(8, size.images))
    images = list(enumerate(find_images(folder / "images")))
    list(engine.analyze(images[:1]))
    settle(device)
    began = time.perf_counter()
    found = sum(len(findings.image_ids) for findings in engine.analyze(images))
    settle(device)
    seconds = time.perf_counter() - began
    assert found == size.images, f"{found} of {size.images} images"
    what = f"{found} images x {len(layers)} visual layers x {len(lenses)} lenses, {len(index.available_layers)} x "
    rows = [["all images", seconds], ["an image", seconds / found]]
    return what + f"{size.rows:,} contextual rows\n\n" + markdown_table(["what", "s"], rows)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to test the code")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--only", nargs="+", choices=["extract", "search", "analysis"], default=[])
    parser.add_argument("--phrases", type=int, help="instead of the published number")
    parser.add_argument("--most-seconds", type=float, default=float("inf"), help="of the extraction's shards")
    parser.add_argument("--runs", type=int, default=5, help="of the search")
    arguments = parser.parse_args()
    size = SMALL if arguments.small else H200
    if arguments.phrases:
        size = Size(**{**vars(size), "phrases": arguments.phrases})
    device = arguments.device
    if device == "cpu":
        torch.set_num_threads(1)
    print(machine() + (" (--small: a test of the code, no measurement)" if arguments.small else ""), flush=True)
    parts: dict[str, Callable[[Path], Any]] = {
        "extract": lambda folder: measure_extraction(size, device, folder, arguments.most_seconds),
        "search": lambda folder: measure_search(size, device, arguments.runs),
        "analysis": lambda folder: measure_analysis(size, device, folder),
    }
    for title in arguments.only or parts:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            if device.startswith("cuda"):
                torch.cuda.reset_peak_memory_stats()
                stack.callback(torch.cuda.empty_cache)
            print(f"\n### {title}\n\n{parts[title](Path(folder))}")
            if device.startswith("cuda"):
                print(f"\npeak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the device")
            print(f"\npeak {peak_mib():,.0f} MiB in the process", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
