"""`lens find` from words and images to files, as a user types it: table, pages, localisation; mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.extract_job import ExtractJob
from launch import cli
from lenscore import shapes
from lenscore.word_maps.found_words import WORDS_SCHEMA
from tests.jobs.test_analyze import complete


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shapes") / "store.zarr"
    complete(ExtractJob(str(shapes.model_path()), (shapes.corpus_path(),), out, layers="1,4", limit=400, per_token=4))
    return out


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    shapes.write_images(folder, "test", 4)
    (folder / "broken.png").write_bytes((folder / "test-00000.png").read_bytes()[:200])
    return folder


def found(*flags: object) -> int:
    return cli.main(["find", "--model", str(shapes.model_path()), "--no-self-test", *map(str, flags)])


def test_one_image(capsys, tmp_path, images, store):
    flags = ["star", "rhombus", "--images", images / "test-00000.png", "--store", store, "--layers", "0,2"]
    assert found(*flags, "--out", tmp_path / "a") == 0
    out = capsys.readouterr().out
    assert f"table: {tmp_path}/a/words.parquet\npage: {tmp_path}/a/test-00000-words.html\n" in out
    assert all(text in out for text in ("star", "▁rhombus", "LatentLens", "layer 2", "rank at row,column: score"))
    table = pq.read_table(tmp_path / "a" / "words.parquet")
    assert table.schema.equals(WORDS_SCHEMA)
    assert len(table) == 2 * 64 * 2 * 3
    # The same bytes again; and as CSV the same numbers.
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert found(*flags, "--out", tmp_path / "a", "--table", "csv") == 0
    assert "replaced, of an earlier search: test-00000-words.html; --out FOLDER keeps both" in capsys.readouterr().out
    assert (tmp_path / "a" / "test-00000-words.html").read_bytes() == files["test-00000-words.html"]
    csv, parquet = pd.read_csv(tmp_path / "a" / "words.csv"), table.to_pandas()
    assert list(csv) == WORDS_SCHEMA.names
    assert (csv[["word", "lens", "rank"]] == parquet[["word", "lens", "rank"]]).all(axis=None)
    assert (csv["score"] - parquet["score"]).abs().max() < 1e-6


def test_several_images_beside_the_truth_of_their_scenes(capsys, tmp_path, images, store):
    nouns = [item.noun for item in shapes.read_scene(images / "test-00000.png").objects]
    flags = ["--images", images, "--store", store, "--layers", "2", "--truth", "shapes", "--pages", "1"]
    assert found(*nouns, "nothing", *flags, "--out", tmp_path / "a") == 0
    out = capsys.readouterr().out
    assert "pointing game" in out
    assert "left out: 1 image, such as " in out
    assert "broken.png: cannot be read as an image" in out
    assert "truth: of 5 images only those count that have the word's object: " in out
    assert "pages of the first 1 image alone; --pages 5 writes all" in out
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "localisation.csv",
        "test-00000-words.html",
        "words.parquet",
    ]
    measured = pd.read_csv(tmp_path / "a" / "localisation.csv")
    too_small = out.partition("(--cover): ")[2].partition("\n")[0]
    assert set(nouns) - set(measured["word"]) == {noun for noun in nouns if f"{noun} 1" in too_small}
    assert len(measured) >= 6
    assert "nothing" not in set(measured["word"])
    assert (measured["precision"] > measured["precision_chance"]).mean() > 0.6
    assert measured[["pointing", "precision"]].stack().between(0, 1).all()


def test_a_truth_file_without_the_words_is_said_before_the_model_is_loaded(capsys, tmp_path, images):
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps([{"path": "test-00000.png", "x0": 0, "y0": 0, "x1": 1, "y1": 1, "word": "circle"}]))
    flags = ["--images", images, "--lenses", "logit", "--truth", truth, "--out", tmp_path / "out", "--layers", "1"]
    assert found("circle", *flags) == 0
    assert "only those count that have the word's object: circle 1\n" in capsys.readouterr().out
    assert found("star", *flags, "--device", "nowhere") == 2
    message = f"error: --truth {truth}: no image has an object called 'star'; nothing can be measured"
    assert message in capsys.readouterr().err.splitlines()


def test_images_of_one_name_have_a_page_each(capsys, tmp_path, images):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes((images / "test-00001.png").read_bytes())
    assert found("star", "--images", tmp_path, "--lenses", "logit", "--layers", "1", "--out", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("x-words.html", "x-2-words.html", "words.parquet")
    }
    assert "and 1 page more" in capsys.readouterr().out


def test_mistakes_are_one_line(capsys, tmp_path, images, store):
    def refused(*words: str, **flags: object) -> str:
        given = {"images": images, "out": tmp_path / "out", "layers": "1", "lenses": "logit"} | flags
        flat = [part for name, value in given.items() if value is not None for part in (f"--{name}", value)]
        assert found(*words, *flat) == 2
        (message,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("find: ")]
        assert message.startswith("error: ")
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
        return message

    (tmp_path / "photo.jpg").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    assert "expected at least one word, as in lens find boat" in refused()
    assert "'日本': the tokenizer of the model has no tokens for this word (it reads '<unk>' '<unk>')" in refused(
        "日本"
    )
    assert "words 'star', 'star': expected each once" in refused("star", "star")
    assert "none can be used: " in refused("star", images=tmp_path / "photo.jpg")
    assert "no such file or folder" in refused("star", images=tmp_path / "nowhere")
    assert "--lenses latent: needs contextual embeddings" in refused("star", lenses="latent")
    no_row = refused("xyzzy", lenses="latent", store=store, device="nowhere")
    assert f"'xyzzy': no row of {store}" in no_row
    assert "layers 0 to 5" in refused("star", layers="9")
    assert "--cover: found 1.5" in refused("star", cover="1.5")
    assert "--pages: found -1" in refused("star", pages="-1")
    assert "no such file" in refused("star", truth=tmp_path / "gone.csv").lower()
    assert "knows only images of the shapes world" in refused("star", truth="shapes", images=tmp_path / "plain.png")
    assert "no such model folder" in refused("star", model=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name", ["<script>alert(1)<.png", "'two' & \u202eevil\u2067犬.png", "a\nb.png", "caf\udce9.png"]
)
def test_hostile_file_names(name, capsys, tmp_path, images):
    (tmp_path / name).write_bytes((images / "test-00001.png").read_bytes())
    flags = ["--lenses", "logit", "--layers", "1", "--table", "csv", "--out", tmp_path / "out"]
    assert found("star", "--images", tmp_path / name, *flags) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name[:-4]}-words.html", "words.csv"}
    printed = capsys.readouterr()
    assert [line for line in printed.err.splitlines() if not line.startswith("find: ")] == []
    assert "\u202e" not in printed.out
    assert "<script>alert" not in (tmp_path / "out" / f"{name[:-4]}-words.html").read_text()
    assert len(pd.read_csv(tmp_path / "out" / "words.csv")) == 64
