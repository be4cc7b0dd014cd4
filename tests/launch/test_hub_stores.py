"""Commands with a store that is named hf:REPO: the same answers as with its folder, and only the asked layers.

The Hub is an HTTP server on this machine, see tests/fake_hub.py; no real one was asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from jobs.extract_job import ExtractJob
from launch import cli
from lenscore.index.contextual_index import ContextualIndex
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.files import read_json
from storage_layouts.results import LensResults
from tests.conftest import WORDS
from tests.fake_hub import FakeHub, fake_hub
from tests.jobs.test_analyze import complete
from tests.script_process import ScriptProcess

HOUSE = Path(__file__).parents[2]
RUN = """
import contextlib, io, sys
from launch import cli
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    code = cli.main(sys.argv[1:])
print(code, said.getvalue())
"""


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def store(tiny_llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    folder = tmp_path_factory.mktemp("store")
    (folder / "corpus.txt").write_text("\n".join(f"the {a} {b}" for a in WORDS[:9] for b in WORDS[5:9]))
    complete(ExtractJob(str(tiny_llm_folder), (str(folder / "corpus.txt"),), folder / "s.zarr", separate_layers=True))
    return EmbeddingStore.open(folder / "s.zarr")


@pytest.fixture(scope="module")
def hub(store: EmbeddingStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    cache = tmp_path_factory.mktemp("cache")
    ContextualIndex.from_store(store).save(cache)
    with fake_hub() as hub:
        hub.repositories |= {"me/store": files_of(store.path), "me/cache": files_of(cache)}
        yield hub


@pytest.fixture(scope="module")
def online(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptProcess]:
    home = tmp_path_factory.mktemp("home")
    environment = os.environ | {"PYTHONPATH": str(HOUSE), "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HOME": str(home), "HF_TOKEN": "hf_none", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    with ScriptProcess(environment) as process:
        yield process


def heavy(hub: FakeHub) -> set[str]:
    return {path for path in hub.downloaded if path.endswith((".pt", "codes/c.0.0"))}


@pytest.mark.slow
def test_read_downloads_the_asked_layers_of_a_store_or_a_cache(
    hub: FakeHub, online: ScriptProcess, store: EmbeddingStore, tiny_llm_folder: Path, tmp_path: Path
) -> None:
    flags = [
        "read",
        "--model",
        str(tiny_llm_folder),
        "--text",
        "the red dog is",
        "--layers",
        "0,2",
        "--lenses",
        "latent",
    ]
    flags += ["--contextual-layers", "-2", "--out"]
    assert cli.main([*flags, str(tmp_path / "local"), "--store", str(store.path)]) == 0
    expected = pd.read_csv(tmp_path / "local" / "text-lens.csv")
    for name, file in (("me/store", "layers/02/codes/c.0.0"), ("me/cache", "layer_2/embeddings_cache.pt")):
        hub.downloaded.clear()
        said = online.run(RUN, *flags, tmp_path / name, "--store", f"hf:{name}")
        assert said.startswith("0 "), said
        assert heavy(hub) == {file}
        found = pd.read_csv(tmp_path / name / "text-lens.csv")
        same = [column for column in found if column not in ("score", "text_position")]
        assert found[same].equals(expected[same])
        assert np.allclose(found["score"], expected["score"], atol=1e-3)  # of a cache the embeddings are float16
        if name == "me/store":
            assert found.equals(expected)


@pytest.mark.slow
def test_analyze_and_report_need_only_the_downloaded_layers(
    hub: FakeHub, online: ScriptProcess, store: EmbeddingStore, tiny_vlm_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(tmp_path / "images" / "photo.png")
    flags = ["analyze", "--model", str(tiny_vlm_folder), "--images", str(tmp_path / "images"), "--workers", "1"]
    flags += ["--contextual-layers", "1", "--device", "cpu", "--out"]
    assert cli.main([*flags, str(tmp_path / "local"), "--store", str(store.path)]) == 0
    hub.downloaded.clear()
    for _ in range(2):  # the repeated command finds all done
        said = online.run(RUN, *flags, tmp_path / "named", "--store", "hf:me/store")
        assert said.startswith("0 "), said
    assert "layers/01/codes/c.0.0" in hub.downloaded
    named = LensResults.open(tmp_path / "named")
    assert named.results().equals(LensResults.open(tmp_path / "local").results())
    assert named.run.config["store"].endswith(f"models--me--store/snapshots/{hub.commit_of('me/store')}")
    assert cli.main(["report", str(tmp_path / "named"), "--out", str(tmp_path / "report")]) == 0

    sharpen = ["sharpen", "--results", tmp_path / "named", "--patches", "2", "--rounds", "1", "--max-new-tokens", "2"]
    said = online.run(RUN, *sharpen, "--store", "hf:me/store", "--out", tmp_path / "sharpened")
    assert said.startswith("0 "), said
    assert cli.main([*map(str, sharpen), "--store", str(store.path), "--out", str(tmp_path / "as-folder")]) == 0
    tables = [(tmp_path / folder / "rounds.csv").read_bytes() for folder in ("sharpened", "as-folder")]
    assert tables[0] == tables[1]
    read = read_json(tmp_path / "sharpened" / "run.json")["inputs"]["store"]
    assert read["path"].endswith(f"models--me--store/snapshots/{hub.commit_of('me/store')}")
    assert read["run_id"] == store.run.run_id

    commit, plan = hub.commit_of("me/store"), (tmp_path / "named" / "plan.json").read_bytes()
    hub.move_main("me/store", {**hub.repositories["me/store"], "notes.txt": b"another commit"})
    for receipt in (tmp_path / "named" / "receipts").iterdir():
        receipt.unlink()  # as if the command had been killed
    said = online.run(RUN, *flags, tmp_path / "named", "--store", "hf:me/store")
    assert said.startswith("0 "), said
    assert (tmp_path / "named" / "plan.json").read_bytes() == plan
    said = online.run(RUN, *flags, tmp_path / "new", "--store", "hf:me/store")
    assert said.startswith("0 "), said
    stores = [LensResults.open(tmp_path / name).run.config["store"] for name in ("named", "new")]
    assert [Path(one).name for one in stores] == [commit, hub.commit_of("me/store")]

    hub.downloaded.clear()
    said = online.run(RUN, *flags, tmp_path / "cached", "--store", "hf:me/cache")
    assert said.startswith("2 ")
    assert set(hub.downloaded) <= {"metadata.json"}
    assert "lens convert hf:me/cache STORE.zarr --model" in said
    said = online.run(RUN, *flags, tmp_path / "none", "--store", "hf:me/none")
    assert said.startswith("2 ")
    assert "me/none: cannot be downloaded from the Hub (" in said
    said = online.run(RUN, *flags, tmp_path / "none", "--store", "hf:me/a/b")
    assert "expected hf:OWNER/NAME, or hf:OWNER/NAME@REVISION" in said


@pytest.mark.slow
def test_convert_makes_a_store_of_some_layers_of_a_cache_on_the_hub(
    hub: FakeHub, online: ScriptProcess, store: EmbeddingStore, tiny_llm_folder: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made.zarr"
    flags = ["--layers", "3", "--model", tiny_llm_folder]
    said = online.run(RUN, "convert", f"hf:me/cache@{hub.commit_of('me/cache')}", made, *flags)
    assert f"{made}: a store of" in said, said
    assert EmbeddingStore.open(made).layers == (3,)
    assert EmbeddingStore.open(made).rows == store.rows
