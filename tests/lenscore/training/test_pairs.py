"""Image-caption data: every format gives the same pairs and the same pixels; what is wrong is named in one line."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import types

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lenscore.images.image_files import UnreadableImageError
from lenscore.training.pairs import Columns, ImageReader, find_pairs, fingerprint
from storage_layouts.errors import InputError

CAPTIONS = ["a red star.", "über dem Haus", "", "two\ntrees"]


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (6 + i, 9, 3), dtype=np.uint8)) for i in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures):
    """Four pictures, and a table of each format; the third has no caption."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "pics").mkdir()
    for i, picture in enumerate(pictures):
        picture.save(folder / "pics" / f"{i}.png")
    rows = [{"file_name": f"pics/{i}.png", "caption": text, "ask": f"what is {i}?"} for i, text in enumerate(CAPTIONS)]
    table = pd.DataFrame(rows)
    table.to_csv(folder / "t.csv", index=False)
    table.to_csv(folder / "t.tsv", index=False, sep="\t")
    table.to_parquet(folder / "t.parquet")
    (folder / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with tarfile.open(folder / "t.tar", "w") as archive:
        for i, row in enumerate(rows):
            members = {"png": (folder / row["file_name"]).read_bytes()}
            # Both ways of webdataset: a text beside the image, or JSON.
            members |= {"json": json.dumps(row).encode()} if i % 2 else {"txt": row["caption"].encode()}
            for ending, data in members.items():
                info = tarfile.TarInfo(f"shard/{i:04d}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return folder


class Table(list):
    """As much of a `datasets.Dataset` as is used."""

    column_names = ("image", "caption", "ask")

    def remove_columns(self, names):
        return [{key: value for key, value in row.items() if key not in names} for row in self]


@pytest.mark.parametrize("kind", ["t.csv", "t.tsv", "t.parquet", "t.jsonl", "t.tar", "hf:someone/pairs:train"])
def test_every_format_gives_the_same(folder, pictures, kind, monkeypatch):
    rows = [{"image": p, "caption": c, "ask": ""} for p, c in zip(pictures, CAPTIONS, strict=True)]
    fake = types.SimpleNamespace(load_dataset=lambda name, split: Table(rows) if (name, split) == ASKED else None)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    pairs = find_pairs(kind if kind.startswith("hf:") else str(folder / kind), Columns())
    assert [pair.caption for pair in pairs] == [text for text in CAPTIONS if text]
    assert {pair.prompt for pair in pairs} == {""}
    reader = ImageReader()
    for pair, picture in zip(pairs, [pictures[i] for i in (0, 1, 3)], strict=True):
        assert np.array_equal(np.asarray(reader.open(pair)), np.asarray(picture))


ASKED = ("someone/pairs", "train")


def test_prompts_have_a_column_of_their_own(folder):
    pairs = find_pairs(str(folder / "t.csv"), Columns(prompt="ask"))
    assert [pair.prompt for pair in pairs] == ["what is 0?", "what is 1?", "what is 3?"]
    assert fingerprint(pairs) != fingerprint(find_pairs(str(folder / "t.csv"), Columns()))


def test_what_is_wrong_is_named(folder, tmp_path, monkeypatch):
    def refusal(data, columns=Columns()):  # noqa: B008
        with pytest.raises(InputError) as refused:
            find_pairs(str(data), columns)
        message = str(refused.value)
        assert "\n" not in message
        return message

    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install datasets" in refusal("hf:a/b")
    assert "no such file or folder" in refusal(tmp_path / "nowhere")
    for name in ("two/a.csv", "two/b.jsonl"):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert "expected one table" in refusal(tmp_path / "two")
    assert refusal(tmp_path / "two").endswith("found a.csv, b.jsonl")
    assert "expected one table" in refusal(folder)  # which has tar files too
    assert "no column 'words'; it has 'file_name', 'caption', 'ask' (--caption-column)" in refusal(
        folder / "t.csv", Columns(caption="words")
    )
    (tmp_path / "bad.jsonl").write_text('{"image": "x.png", "caption": "y"}\n{"image": \n')
    assert "bad.jsonl, line 2: not JSON" in refusal(tmp_path / "bad.jsonl")
    (tmp_path / "gone.csv").write_text("image,caption\nx.png,a cat\n")
    assert "of 1 image none is there" in refusal(tmp_path / "gone.csv")
    (tmp_path / "broken.tar").write_bytes((folder / "t.tar").read_bytes()[:700])
    assert "broken.tar: cut or damaged at or behind member shard/0000.png" in refusal(tmp_path / "broken.tar")
    (tmp_path / "mute.csv").write_text("image,caption\nx.png,\n")
    assert "no image with a caption" in refusal(tmp_path / "mute.csv")


def test_a_changed_file_is_refused_and_a_broken_one_is_told(folder, tmp_path):
    data = (folder / "pics/0.png").read_bytes()
    (tmp_path / "x.png").write_bytes(data)
    (tmp_path / "y.png").write_bytes(data[:60])
    (tmp_path / "t.csv").write_text("image,caption\nx.png,a cat\ny.png,a dog\nz.png,a fox\n")
    whole, broken, missing = find_pairs(str(tmp_path), Columns())
    reader = ImageReader()
    for pair in (broken, missing):
        with pytest.raises(UnreadableImageError):
            reader.open(pair)
    (tmp_path / "x.png").write_bytes(data + b"more")
    with pytest.raises(InputError, match="changed since the run was planned"):
        reader.open(whole)
