"""Every family from end to end: its own LLM reads the corpus, its images are analysed, in batches of mixed sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import transformers as hf
from PIL import Image

from jobs.analyze_job import AnalyzeJob
from jobs.extract_job import ExtractJob
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from tests.conftest import WORDS
from tests.families import BUILDERS, DEPTH, FAMILIES, save_family
from tests.jobs.test_analyze import complete

READABLE = {"square.png": (60, 60), "wide.png": (130, 41), "tall.png": (33, 80), "dot.png": (1, 1)}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of noise of all shapes, odd kinds of files, and two that are broken."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(3)

    def noise(width: int, height: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))

    for name, size in READABLE.items():
        noise(*size).save(folder / name)
    noise(50, 30).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 2**16, (30, 40), dtype=np.uint16)).save(folder / "deep.png")
    noise(40, 40).save(folder / "moving.gif", save_all=True, append_images=[noise(40, 40)])
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    noise(50, 20).save(folder / "turned.jpg", exif=turned)
    whole = (folder / "square.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    rng = np.random.default_rng(4)
    path.write_text("\n".join(" ".join(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(40)))
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_from_corpus_to_results(family: str, images: Path, corpus: Path, tmp_path: Path) -> None:
    model = str(save_family(family, tmp_path / family))
    causal = family != "paligemma"  # whose text sees what follows
    complete(ExtractJob(model, (corpus,), tmp_path / "s.zarr", layers="all", per_token=4, causal=causal))
    store = EmbeddingStore.open(tmp_path / "s.zarr")
    assert store.layers == tuple(range(DEPTH))

    def analysed(batch_size: int) -> LensResults:
        out = tmp_path / f"run{batch_size}"
        return LensResults.open(
            complete(AnalyzeJob(model, images, out, store.path, layers="all", batch_size=batch_size)).path
        )

    together, alone = analysed(10), analysed(1)
    paths = [Path(path).name for path in together.images()["path"].to_pylist()]
    places = together.geometry().to_pylist()
    too_small = {"dot.png"} if family == "mistral3" else set()
    assert {paths[line["image_id"]] for line in places if line["error"]} == {"truncated.png", "text.jpg", *too_small}
    sizes = {paths[line["image_id"]]: (line["width"], line["height"]) for line in places if not line["error"]}
    expected = READABLE | {"cmyk.jpg": (50, 30), "deep.png": (40, 30), "moving.gif": (40, 40), "turned.jpg": (20, 50)}
    assert sizes == {name: size for name, size in expected.items() if name not in too_small}
    assert together.geometry().equals(alone.geometry())

    patches = [(line["image_id"], p["view"], p["row"], p["col"]) for line in places for p in line["patches"]]
    assert len(patches) == len(set(patches)) > 8
    lenses = ["latent", "logit", "embedding"]
    found = together.results()
    keys = list(zip(*(found[c].to_pylist() for c in ("image_id", "view", "row", "col", "layer", "lens")), strict=True))
    assert keys == [(*patch, layer, lens) for patch in patches for layer in range(DEPTH) for lens in lenses]
    scores, ids = (
        [np.stack(run.results()[c].to_numpy(zero_copy_only=False)) for run in (together, alone)]
        for c in ("scores", "ids")
    )
    assert np.abs(scores[0] - scores[1]).max() < 2e-4 * max(1, np.abs(scores[0]).max())
    assert (ids[0] == ids[1]).mean() > 0.99  # all but ties that rounding decides


def test_a_family_that_nobody_described_is_analysed_and_told(images: Path, tmp_path: Path) -> None:
    model, processor = BUILDERS["llava"]()
    settings = {name: getattr(model.config, name) for name in ("vision_config", "text_config", "image_token_index")}
    config = hf.VipLlavaConfig(**settings, vision_feature_layers=[-1, -2])
    hf.VipLlavaForConditionalGeneration(config).save_pretrained(tmp_path / "vip")
    processor.save_pretrained(tmp_path / "vip")
    job = AnalyzeJob(str(tmp_path / "vip"), images, tmp_path / "run", lenses="logit", layers="0")
    run = job.open_run()
    job.plan(run, lambda message: None)
    assert (
        "the patch grid of 'vipllava' models is not known" in RunFolder.open(run.path).require_plan().facts["notes"][-1]
    )
    geometry = LensResults.open(complete(job).path).geometry().to_pylist()
    places = [patch for line in geometry for patch in line["patches"]]
    assert {view["name"] for line in geometry for view in line["views"]} == {"ungridded"}
    assert {tuple(p[side] for side in ("left", "top", "right", "bottom")) for p in places} == {(0, 0, 1, 1)}
