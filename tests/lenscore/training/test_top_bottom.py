"""The task of top or bottom, made of boxes and masks that are known, by the rules of the paper's code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lenscore.training.top_bottom import top_bottom_pairs
from lenscore.user_files.notes import Notes
from storage_layouts.errors import InputError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "b.png", "more/c.png"):
        Image.new("RGB", (200, 100)).save(folder / name)
    turned = Image.Exif()
    turned[0x0112] = 6  # seen as 100 wide and 200 high
    Image.new("RGB", (200, 100)).save(folder / "turned.jpg", exif=turned)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def asked(photos: Path, objects: Path) -> tuple[list[tuple[str, str, str]], list[str]]:
    notes = Notes()
    pairs = top_bottom_pairs(str(photos), objects, notes)
    assert all(pair.size == Path(pair.source).stat().st_size for pair in pairs)
    return [(str(Path(pair.source).relative_to(photos)), pair.prompt, pair.caption) for pair in pairs], notes.lines()


BOXES = [
    ("a.png", 0, 0, 50, 30, "Cat"),  # middle at 15 of 100
    ("a.png", 0, 80, 50, 100, "dog"),  # 90
    ("a.png", 0, 0, 50, 40, "kite"),  # 20: not above the fifth
    ("a.png", 0, 60, 50, 100, "boat"),  # 80: not below
    ("b.png", 0, 0, 10, 10, "bird"),  # 5 and 45: 25 in the mean
    ("b.png", 0, 40, 10, 50, "bird"),
    ("b.png", 0, 0, 10, 10, "tree"),  # 5 and 25: 15 in the mean
    ("b.png", 0, 20, 10, 30, "tree"),
    ("more/c.png", 0, 86, 10, 130, "lamp"),  # of which the image shows 86 to 100
    ("turned.jpg", 0, 150, 10, 190, "shoe"),  # 170 of 200
    ("elsewhere.png", 0, 0, 10, 10, "cat"),
]
EXPECTED = [
    ("a.png", "Where is cat?", "Cat is on the top of the image."),
    ("a.png", "Where is dog?", "Dog is on the bottom of the image."),
    ("b.png", "Where is tree?", "Tree is on the top of the image."),
    ("more/c.png", "Where is lamp?", "Lamp is on the bottom of the image."),
    ("turned.jpg", "Where is shoe?", "Shoe is on the bottom of the image."),
]


def table(folder: Path) -> Path:
    lines = ["path,x0,y0,x1,y1,word", *(",".join(map(str, row)) for row in BOXES if row[5] != "lamp")]
    (folder / "t.csv").write_text("\n".join([*lines, "c.png,0,86,10,100,lamp;light"]))
    return folder / "t.csv"


def sizes(name: str) -> tuple[int, int]:
    return (100, 200) if name == "turned.jpg" else (200, 100)


def coco(folder: Path) -> Path:
    names, words = (list(dict.fromkeys(row[place] for row in BOXES)) for place in (0, 5))
    content = {
        "annotations": [
            {
                "image_id": names.index(name),
                "category_id": words.index(word),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": [[0, 50, 10, 50, 10, 52, 0, 52]],  # not looked at
            }
            for name, x0, y0, x1, y1, word in BOXES
        ],
        "images": [
            {"id": i, "file_name": name, "width": sizes(name)[0], "height": sizes(name)[1]}
            for i, name in enumerate(names)
        ],
        "categories": [{"id": i, "name": word} for i, word in enumerate(words)],
    }
    (folder / "t.json").write_text(json.dumps(content))
    return folder / "t.json"


def visual_genome(folder: Path) -> Path:
    content: dict[str, list[dict[str, object]]] = {}
    for name, x0, y0, x1, y1, word in BOXES:
        content.setdefault(name, []).append({"x": x0, "y": y0, "w": x1 - x0, "h": y1 - y0, "names": [word]})
    entries = [{"image_id": 1, "image_url": f"http://x/{name}", "objects": listed} for name, listed in content.items()]
    (folder / "objects.json").write_text(json.dumps(entries))
    return folder / "objects.json"


@pytest.mark.parametrize("write", [table, coco, visual_genome])
def test_questions_and_answers_of_known_boxes(write, photos, tmp_path):
    found, notes = asked(photos, write(tmp_path))
    assert found == EXPECTED
    assert "examples: 5 (bottom 3, top 2)" in notes
    left_out = "names whose objects are neither at the top nor at the bottom, left out: 3 (kite 1, boat 1, bird 1)"
    assert left_out in notes
    assert "images that cannot be read, left out: 1 (broken.png 1)" in notes


def test_masks_count_by_their_pixels(photos, tmp_path):
    mask = np.zeros((100, 200), np.uint8)
    mask[0:10] = 1
    mask[90:100, :100] = 1  # half as much: the middle is at (5 * 2 + 95) / 3 = 35
    Image.fromarray(mask).save(tmp_path / "both.png")
    Image.fromarray(mask * (np.arange(100)[:, None] < 50)).convert("L").save(tmp_path / "upper.png")
    (tmp_path / "t.csv").write_text("path,mask,word\na.png,both.png,sky\na.png,upper.png,roof\n")
    found, notes = asked(photos, tmp_path / "t.csv")
    assert found == [("a.png", "Where is roof?", "Roof is on the top of the image.")]
    assert "left out: 1 (sky 1)" in "\n".join(notes)


@pytest.mark.parametrize("box", [None, []])
def test_a_segmentation_counts_where_the_box_is_empty(box, photos, tmp_path):
    file = coco(tmp_path)
    content = json.loads(file.read_text())
    shape = [[0, 0, 10, 0, 10, 10, 0, 10]]
    content["annotations"] = [{"image_id": 0, "category_id": 0, "bbox": box, "segmentation": shape}]
    file.write_text(json.dumps(content))
    found, _ = asked(photos, file)
    assert [(name, answer) for name, _, answer in found] == [("a.png", "Cat is on the top of the image.")]


def test_nothing_at_the_top_or_bottom_is_refused(photos, tmp_path):
    (tmp_path / "t.csv").write_text("path,x0,y0,x1,y1,word\na.png,0,0,1,1,wall\nz.png,0,0,1,0.1,cat\n")
    with pytest.raises(InputError, match=r"names no object at the top or bottom .*\(it names 1 of these 4\)"):
        asked(photos, tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"--data .*gone: no such folder; with --top-bottom expected one of images"):
        asked(photos / "gone", tmp_path / "t.csv")
