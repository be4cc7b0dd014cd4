"""Pretrained weights: `make real` runs the real world's demo with trained connectors and the self-test of real models.

It downloads 324 MB and takes long, so `make test` leaves it out. What was measured replaces the tables
in docs/real-world.md. Variables of the environment: REAL_DEMO=FOLDER goes on in the folder of an earlier try,
REAL_FLAGS="--images 24 --train-steps 16" gives `lens demo` other flags, and GEMMA_3=FOLDER tests a model made of
Gemma 3 270M too, whose terms have to be accepted by whoever downloads it.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from torch import nn

from launch import demo, train
from lenscore import shapes
from lenscore.images import preprocessing
from lenscore.lenses.head_output import head_path
from lenscore.models.loading import load_vlm
from lenscore.real_world.artwork_scenes import read_artwork
from lenscore.real_world.fitted_connector import fit_connector
from lenscore.real_world.packages import TRAINING_ARTWORK
from lenscore.self_test.checks import CheckResult, check
from storage_layouts.cache_folder import cache_folder
from storage_layouts.embeddings import EmbeddingStore
from tests.lenscore.test_self_test import failed, upside_down, with_hook

pytestmark = [pytest.mark.real, pytest.mark.timeout(4 * 3600)]

FLAGS = ["--world", "real", *shlex.split(os.environ.get("REAL_FLAGS", "--train-steps 60"))]
PAGE = Path(__file__).parents[1] / "docs" / "real-world.md"
BEGIN, END = "<!-- make real writes from here -->\n", "<!-- to here -->\n"
CONNECTORS = {
    "model": "Least squares",
    "captions": "Least squares, then trained on captions",
    "from-nothing": "Trained on captions from nothing",
}
"""Models of the demo, by their labels in its report."""
MODELS = ("shapes world", "SmolLM2 + DINOv2", "Gemma 3 270M + DINOv2")
self_tests: list[tuple[str, str, list[CheckResult]]] = []
"""Model, dtype and what was found, of the tests that ran before the page is written."""


@pytest.fixture(scope="module")
def real_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    patch = pytest.MonkeyPatch()
    patch.delenv("LENSCORE_CACHE")  # the user's own, so that nothing is downloaded twice
    out = Path(os.environ.get("REAL_DEMO") or tmp_path_factory.mktemp("real") / "demo")
    assert demo.main([*FLAGS, "--out", str(out)]) == 0
    patch.undo()
    return out


@pytest.fixture(scope="module")
def rates(real_demo: Path) -> Callable[[str, str, int], Any]:
    """The line of a model, lens and layer in the tables of the report."""

    def line(model: str, lens: str, layer: int) -> Any:
        table = pd.read_csv(real_demo / "report" / "tables" / f"rates-{model}.csv")
        return table.set_index(["lens", "layer"]).loc[(lens, layer)]

    return line


def test_latentlens_names_objects_of_artwork_that_the_connector_never_saw(rates: Callable[..., Any]) -> None:
    for layer in (1, 2, 4, 8, 16):
        latent = rates("model", "latent", layer)
        others = [rates("model", lens, layer)["rate"] for lens in ("logit", "embedding")]
        assert latent["low"] > max(latent["control"], *others) + 0.02


def test_of_a_connector_that_has_learnt_nothing_nothing_is_named(rates: Callable[..., Any]) -> None:
    for layer in (0, 1, 2, 4, 8, 16):
        assert rates("from-nothing", "latent", layer)["rate"] < rates("model", "latent", layer)["low"]


def test_the_sinks_are_first_tokens(real_demo: Path) -> None:
    store = EmbeddingStore.open(real_demo / "store.zarr")
    positions = store.row_table(["position"])["position"].to_numpy()
    assert np.median(positions[store.sinks]) == 0
    first = np.flatnonzero(positions == 0)
    assert np.isin(first, store.sinks).mean() > 0.9
    assert len(store.sinks) < 0.01 * store.rows


def test_repeating_the_demo_computes_nothing(real_demo: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert demo.main([*FLAGS, "--out", str(real_demo)]) == 0
    said = capfd.readouterr()
    assert "download:" not in said.out
    assert "rows/s" not in said.err


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, real_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == MODELS[0]:
        return shapes.model_path()
    if request.param == MODELS[1]:
        return real_demo / "model" / "model"
    if "GEMMA_3" not in os.environ:
        pytest.skip("needs GEMMA_3=FOLDER, with Gemma 3 270M")
    gemma, parts, out = os.environ["GEMMA_3"], real_demo / "parts", tmp_path_factory.mktemp("gemma")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LENSCORE_CACHE")
        artwork = read_artwork(TRAINING_ARTWORK.download(cache_folder() / "packages"))
    connector = out / "connector.safetensors"
    fit_connector(Path(gemma), parts / "dinov2", artwork, 0, 240, connector, dtype=torch.float32)
    joined = [
        "--llm",
        gemma,
        "--vision",
        str(parts / "dinov2"),
        "--data",
        str(next(parts.glob("scenes-*"))),
        "--steps",
        "0",
    ]
    joined += ["--connector", "linear", "--vit-layers=-1,-2,-4", "--image-fit", "squash", "--image-size", "112"]
    assert train.main([*joined, "--start-from", str(connector), "--out", str(out / "run")]) == 0
    return out / "run" / "model"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_self_test_passes_good_models_and_finds_planted_faults(
    folder: Path, dtype: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = load_vlm(folder, "cpu", dtype)
    found = check(vlm)
    self_tests.append((request.node.callspec.params["folder"], dtype, found))
    assert not failed(found), found
    honest = preprocessing.image_geometry
    monkeypatch.setattr(preprocessing, "image_geometry", lambda *given: [upside_down(one) for one in honest(*given)])
    path = head_path(vlm.model, 1)
    twice = dataclasses.replace(path, norm=nn.Sequential(path.norm, path.norm))
    monkeypatch.setattr("lenscore.lenses.logit.head_path", lambda *_: twice)
    # A state that depends on its batch and changes between two blocks.
    wrong = with_hook(vlm, lambda state: state + state.mean(dim=0, keepdim=True))
    assert failed(check(wrong)) == {"quadrants", "logits", "blocks", "batching"}


def test_what_was_measured_is_written_into_the_documentation(real_demo: Path) -> None:
    tables = real_demo / "report" / "tables"
    store = EmbeddingStore.open(real_demo / "store.zarr")
    counted = next(line for line in (tables.parent / "report.md").read_text().splitlines() if "sampled patches" in line)
    parts = [
        f"Measured by `make real` on {datetime.date.today()} with `lens demo {shlex.join(FLAGS)}`, torch "
        f"{torch.__version__} and transformers {transformers.__version__}. The store has {store.rows:,} rows.\n",
        f"{counted}\n",
    ]
    for label, title in CONNECTORS.items():
        parts += [f"### {title}\n", (tables / f"rates-{label}.md").read_text()]
    parts += ["### Over the training\n", (tables / "training-dynamics.md").read_text()]
    parts += ["### Self-test\n", "| model | dtype | check | | found |\n|---|---|---|---|---|"]
    for model, dtype, checks in self_tests:
        for one in checks:
            parts.append(f"| {model} | {dtype} | {one.check} | {'passed' if one.passed else 'FAILED'} | {one.found} |")
    written = "\n".join(parts).replace(f"{real_demo}/", "")  # the truth's name, without a folder of this machine
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin
    assert end
    PAGE.write_text("\n".join([before + begin, written, "", end + after]))
