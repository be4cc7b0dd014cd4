"""analyze_image: the numbers of an analyze run, the words of an independent lookup, on every family and any image."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import lenscore
from jobs.analyze_job import AnalyzeJob
from lenscore import shapes
from lenscore.index.contextual_index import ContextualIndex
from lenscore.models.loading import Vlm, load_vlm
from lenscore.single_image.analysis import analyze_image
from lenscore.viewer.readings import RunReadings
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from tests.conftest import WORDS
from tests.families import FAMILIES, save_family
from tests.jobs.test_analyze import complete

LAYERS = "0,2,-1"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return shapes.write_images(tmp_path_factory.mktemp("images"), "test", 3)


@pytest.fixture(scope="module")
def results(images: list[Path], shapes_store: Path, tmp_path_factory: pytest.TempPathFactory) -> LensResults:
    """What `lens analyze` says of these images, one a batch."""
    out = tmp_path_factory.mktemp("run") / "run"
    job = AnalyzeJob(str(shapes.model_path()), images[0].parent, out, shapes_store, layers=LAYERS, batch_size=1)
    return LensResults.open(complete(job).path)


def expected_table(results: LensResults, image_id: int) -> pd.DataFrame:
    """The Parquet files of a run and its store, joined by pandas alone."""
    found = pd.concat(pd.read_parquet(path) for path in sorted((results.path / "results").glob("*.parquet")))
    found = found[found["image_id"] == image_id]
    lists = ["ids", "scores", "contextual_layers"]
    found = found.assign(rank=[range(1, 6)] * len(found)).explode([*lists, "rank"], ignore_index=True)
    store = Path(results.run.inputs["store"]["path"])
    rows = pd.concat(pd.read_parquet(path) for path in sorted((store / "rows").glob("*.parquet")))
    rows = rows.merge(pd.read_parquet(store / "sentences.parquet"), on="sentence_id").set_index("row")
    tokens = pd.read_parquet(results.path / "tokens.parquet").set_index("token_id")["token"]
    lines = []
    for line in found.itertuples():
        if line.lens == "latent":
            row = rows.loc[line.ids]
            around = [
                m.group()
                for m in re.finditer(r"\w+|[^\w\s]", row["text"])
                if m.start() <= row["char_end"] - 1 < m.end()
            ]
            start = row["char_start"] + (row["text"][row["char_start"]] == " ")
            said = [around[0], row["token"], row["text"], start, row["char_end"], line.contextual_layers]
        else:
            said = [tokens[line.ids].strip(), tokens[line.ids], "", None, None, None]
        lines.append([line.view, line.row, line.col, line.layer, line.lens, line.rank, np.float32(line.scores), *said])
    said = ["word", "token", "sentence", "char_start", "char_end", "contextual_layer"]
    return pd.DataFrame(lines, columns=["view", "row", "col", "layer", "lens", "rank", "score", *said])


@pytest.mark.parametrize("image_id", [0, 2])
def test_numbers_and_words_are_those_of_an_analyze_run(
    image_id: int, images: list[Path], results: LensResults, shapes_vlm: Vlm, shapes_store: Path
) -> None:
    table = analyze_image(images[image_id], shapes_vlm, shapes_store, layers=LAYERS).to_pandas()
    expected = expected_table(results, image_id)
    assert len(table) == 64 * 3 * 3 * 5 == len(expected)
    for column in expected:
        found = table[column]
        same = (found == expected[column]) | (found.isna() & expected[column].isna())
        assert same.all(), f"{column}: {table[~same.astype(bool)].head(3)} {expected[~same.astype(bool)].head(3)}"
    assert table["score"].dtype == np.float32
    assert (table["left"] == np.float32(table["col"] / 8)).all()
    assert (table["bottom"] == np.float32((table["row"] + 1) / 8)).all()
    assert (table["view_name"] == "global").all()
    assert (table["patch"] == 8 * table["row"] + table["col"]).all()
    marked = table[table["lens"] == "latent"]
    assert (marked["sentence"].str.len() >= marked["char_end"]).all()


def test_the_reading_is_that_of_the_viewer(
    images: list[Path], results: LensResults, shapes_vlm: Vlm, shapes_store: Path
) -> None:
    ((_, expected),) = RunReadings(results).readings([1])
    found = analyze_image(images[1], shapes_vlm, shapes_store, layers=LAYERS).reading
    assert (found.name, found.width, found.height, found.views) == (expected.name, 96, 96, expected.views)
    assert (found.picture, found.layers, found.truth is None) == (expected.picture, expected.layers, False)
    for name in ("places", "boxes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)
    np.testing.assert_array_equal(found.truth.share, expected.truth.share)
    assert found.truth.things == expected.truth.things
    for mine, theirs in zip(found.lenses, expected.lenses, strict=True):
        assert mine.lens == theirs.lens
        np.testing.assert_array_equal(mine.scores, theirs.scores, strict=True)
        same = np.array(mine.words, object)[mine.which] == np.array(theirs.words, object)[theirs.which]
        assert same.all()


def test_any_kind_of_image_model_and_index_says_the_same(
    images: list[Path], shapes_vlm: Vlm, shapes_store: Path
) -> None:
    index = ContextualIndex.from_store(shapes_store)
    expected = analyze_image(images[0], shapes_vlm, index, layers=LAYERS).to_pandas()
    picture = Image.open(images[0])
    in_memory = analyze_image(np.asarray(picture.convert("RGB")), shapes_vlm, index, layers=[0, 2, 5])
    assert (in_memory.reading.name, in_memory.reading.truth) == ("image", None)
    others = [
        analyze_image(str(images[0]), shapes.model_path(), EmbeddingStore.open(shapes_store), layers=LAYERS),
        analyze_image(picture, shapes_vlm, shapes_store, layers=LAYERS),
        in_memory,
    ]
    for other in others:
        pd.testing.assert_frame_equal(other.to_pandas(), expected)
    assert picture.filename.endswith(others[1].reading.name)
    assert others[1].sampled() == in_memory.sampled()  # a name is not content


def test_turned_and_transparent_pictures_are_seen_as_from_a_file(tmp_path: Path, tiny_vlm: Vlm) -> None:
    rng = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 255, (20, 50, 3), dtype=np.uint8)).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(rng.integers(0, 255, (30, 40, 4), dtype=np.uint8)).save(tmp_path / "clear.png")
    for path in (tmp_path / "turned.png", tmp_path / "clear.png"):
        from_file, from_memory = (analyze_image(one, tiny_vlm, layers="all") for one in (path, Image.open(path)))
        pd.testing.assert_frame_equal(from_file.to_pandas(), from_memory.to_pandas())
        assert (from_file.reading.width, from_file.reading.height) == ((20, 50) if "turned" in path.name else (40, 30))


def test_an_index_without_a_store_knows_its_words(tmp_path: Path, tiny_vlm: Vlm) -> None:
    """Built in memory, and from a cache folder that kept no character offsets."""
    corpus = ["the red  dog", "a dog under the tree", "cat of the house and tree"]
    built = lenscore.build_index(
        "tiny", corpus, layers=[1, 2], model=tiny_vlm.model, tokenizer=tiny_vlm.tokenizer, show_progress=False
    )
    built.save(tmp_path / "cache", torch.float32)
    image = Image.new("RGB", (40, 30), "red")
    tables = [
        analyze_image(image, tiny_vlm, index, lenses=["latent"], top_k=3).to_pandas()
        for index in (built, ContextualIndex.from_directory(tmp_path / "cache"))
    ]
    for table in tables:
        assert set(table["sentence"]) <= set(corpus)
        for line in table.itertuples():
            assert line.sentence[line.char_start : line.char_end] == line.token == line.word
            assert line.token in WORDS
    columns = ["patch", "layer", "rank", "word", "sentence", "char_start", "contextual_layer"]
    pd.testing.assert_frame_equal(tables[0][columns], tables[1][columns])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    vlm = load_vlm(save_family(family, tmp_path / family), "cpu")
    rng = np.random.default_rng(2)
    image = Image.fromarray(rng.integers(0, 255, (50, 90, 3), dtype=np.uint8))
    analyzed = analyze_image(image, vlm, layers="all", top_k=3, self_test=False)
    reading = analyzed.reading
    table = analyzed.to_pandas()
    assert len(table) == len(reading.places) * 4 * 2 * 3
    assert set(table["word"]) <= {*WORDS, *table["token"]}
    grids = table.groupby("view")[["row", "col"]].max().prod(axis=1)
    assert set(grids.index) == set(reading.views)
    assert len(table.drop_duplicates(["view", "row", "col"])) == len(reading.places)
    sampled = analyzed.sampled(3)
    assert len(sampled) == 3
    assert {reading.views[view] for view in reading.places[list(sampled), 0].tolist()} == {"global"}
    everywhere = ";".join(f"{view},0,0" for view in reading.views)
    with Image.open(analyzed.save_png(tmp_path / "figure.png", patches=everywhere, dpi=50)) as figure:
        assert figure.width == 340
    if family == "mistral3":
        with pytest.raises(InputError, match="image: too small: 16 x 16 pixels are one visual token"):
            analyze_image(Image.new("RGB", (1, 1)), vlm, self_test=False)


def test_mistakes_are_one_line(tmp_path: Path, shapes_vlm: Vlm, shapes_store: Path, tiny_vlm_folder: Path) -> None:
    image = Image.new("RGB", (96, 96))
    (tmp_path / "text.png").write_text("no image")

    def refused(image=image, vlm=shapes_vlm, index=None, **settings) -> str:
        with pytest.raises(InputError) as error:
            analyze_image(image, vlm, index, **settings)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "gone.png: cannot be read: No such file" in refused(tmp_path / "gone.png")
    assert "text.png: cannot be read as an image" in refused(tmp_path / "text.png")
    assert "not a regular file" in refused(tmp_path)
    assert "array of float64 [4, 4, 3]; expected uint8" in refused(np.zeros((4, 4, 3)))
    assert "one side is over 200 times" in refused(Image.new("RGB", (2000, 2)))
    assert "the model has 6 blocks, so layers 0 to 5" in refused(layers=[2, 8])
    assert "needs contextual embeddings" in refused(lenses="latent,logit")
    assert "'tarot' is not a lens" in refused(lenses=["tarot"])
    assert "--top-k: found 0" in refused(top_k=0)
    assert "has 475 candidates; expected 1 to 475" in refused(top_k=10**6)
    assert "dimensions" in refused(vlm=tiny_vlm_folder, index=shapes_store)
    assert "has no layer 3" in refused(index=shapes_store, contextual_layers="3")
    assert "no such model folder" in refused(vlm=tmp_path / "nowhere")
    assert "no such folder" in refused(index=tmp_path / "nowhere.zarr")
    narrow = ContextualIndex({1: {"embeddings": torch.ones(9, 8), "metadata": [{}] * 9}})
    assert "expected [n, 8]" in refused(index=narrow)
    with pytest.raises(TypeError, match="contextual_layers need a store"):
        analyze_image(image, shapes_vlm, narrow, contextual_layers=[1])
    with pytest.raises(TypeError, match="need the name of a model, not a loaded model"):
        analyze_image(image, shapes_vlm, device="cpu")


def test_a_store_of_the_same_shape_but_other_weights_is_refused(
    tmp_path: Path, shapes_vlm: Vlm, shapes_store: Path
) -> None:
    vlm = load_vlm(shapes.model_path(), "cpu")
    with torch.no_grad():
        vlm.decoder.layers[0].self_attn.q_proj.weight.mul_(1.5)
    for index in (shapes_store, ContextualIndex.from_store(shapes_store)):
        with pytest.raises(InputError, match="decoder weights"):
            analyze_image(Image.new("RGB", (96, 96)), vlm, index, self_test=False)


def test_states_that_are_not_finite_are_one_line(tiny_vlm_folder: Path) -> None:
    vlm = load_vlm(tiny_vlm_folder, "cpu")
    with torch.no_grad():
        vlm.decoder.layers[1].mlp.down_proj.weight[0, 0] = torch.inf
    with pytest.raises(InputError, match=r"hidden state of layer 2 at position \d+ is not finite") as error:
        analyze_image(Image.new("RGB", (32, 32), "red"), vlm, layers=[0, 2], self_test=False)
    assert "\n" not in str(error.value)
