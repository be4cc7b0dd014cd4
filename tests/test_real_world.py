"""The demo on pretrained weights: `make real`. It downloads 324 MB and takes minutes, so `make test` leaves it out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from launch import demo
from storage_layouts.embeddings import EmbeddingStore

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def real_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    patch = pytest.MonkeyPatch()
    patch.delenv("LENSCORE_CACHE")  # the user's own, so that nothing is downloaded twice
    out = tmp_path_factory.mktemp("real") / "demo"
    assert demo.main(["--world", "real", "--out", str(out)]) == 0
    patch.undo()
    return out


def test_latentlens_names_objects_of_artwork_that_the_connector_never_saw(real_demo: Path) -> None:
    rates = pd.read_csv(real_demo / "report" / "tables" / "rates-model.csv").set_index(["lens", "layer"])
    print(rates.to_string())
    for layer in (1, 2, 4, 8, 16):
        latent = rates.loc[("latent", layer)]
        others = [rates.loc[(lens, layer)]["rate"] for lens in ("logit", "embedding")]
        assert latent["low"] > max(latent["control"], *others) + 0.02


def test_the_sinks_are_first_tokens(real_demo: Path) -> None:
    store = EmbeddingStore.open(real_demo / "store.zarr")
    positions = store.row_table(["position"])["position"].to_numpy()
    assert np.median(positions[store.sinks]) == 0
    first = np.flatnonzero(positions == 0)
    assert np.isin(first, store.sinks).mean() > 0.9
    assert len(store.sinks) < 0.01 * store.rows


def test_repeating_the_demo_computes_nothing(real_demo: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--world", "real", "--out", str(real_demo)]) == 0
    said = capfd.readouterr()
    assert "download:" not in said.out
    assert "rows/s" not in said.err
