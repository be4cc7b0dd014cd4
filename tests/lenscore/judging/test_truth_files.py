"""Truth files say what the pixels say: coverage and distances by counting, masks as COCO's own tools unpack them."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lenscore.judging.judges.shapes_truth import fitting_words
from lenscore.judging.judges.truth_file import ObjectsSpec, TruthFileJudge
from lenscore.judging.patches import ImagePatches, PatchRef
from lenscore.judging.truth_files.regions import BoxRegion, MaskRegion
from lenscore.judging.truth_files.run_length import mask_of_polygons, mask_of_rle
from lenscore.judging.truth_files.word_forms import word_forms
from lenscore.shapes import read_scene, write_images
from lenscore.shapes.rendering import object_masks
from storage_layouts.errors import InputError

WIDE, HIGH, ROWS, COLUMNS = 120, 80, 4, 6


def image_patches(path: Path, width: int = WIDE, height: int = HIGH, number: int = 0, grid=(ROWS, COLUMNS)):
    rows, cols = grid
    cells = [divmod(n, cols) for n in range(rows * cols)]
    boxes = [(c / cols, r / rows, (c + 1) / cols, (r + 1) / rows) for r, c in cells]
    places = [PatchRef(number, f"{number}", 0, r, c, box) for (r, c), box in zip(cells, boxes, strict=True)]
    return ImagePatches(number, str(path), f"{number}", tuple(places), width, height)


def judged(judge: TruthFileJudge, image: ImagePatches) -> dict[tuple[int, int], dict[str, Any]]:
    return {(place.row, place.col): judge.known(image, place) for place in judge.qualifying(image)}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[ImagePatches]:
    paths = write_images(tmp_path_factory.mktemp("pictures"), "validation", 8)
    images = [image_patches(path, 96, 96, number, (8, 8)) for number, path in enumerate(paths)]
    return [
        ImagePatches(one.image_id, one.path, sha256(path.read_bytes()).hexdigest(), one.places, 96, 96)
        for one, path in zip(images, paths, strict=True)
    ]


def as_runs(mask: np.ndarray) -> list[int]:
    """Lengths of runs, counted pixel by pixel."""
    runs, now = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != now:
            runs.append(0)
            now = pixel
        runs[-1] += 1
    return runs


def png_table(folder: Path, objects: list[tuple[str, str, np.ndarray]]) -> Path:
    lines = ["path,label,mask"]
    for number, (name, word, mask) in enumerate(objects):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"mask{number}.png")
        lines.append(f"{name},{word},mask{number}.png")
    (folder / "truth.csv").write_text("\n".join(lines))
    return folder / "truth.csv"


def rle_table(folder: Path, objects: list[tuple[str, str, np.ndarray]]) -> Path:
    rows = [
        {"path": name, "word": [word], "mask": {"size": list(mask.shape), "counts": as_runs(mask)}}
        for name, word, mask in objects
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "truth.parquet")
    return folder / "truth.parquet"


def coco(folder: Path, objects: list[tuple[str, str, np.ndarray]]) -> Path:
    names, words = (list(dict.fromkeys(one[place] for one in objects)) for place in (0, 1))
    content = {
        "images": [
            {"id": 7 + i, "coco_url": f"http://images.cocodataset.org/val/{Path(name).name}", "width": 96, "height": 96}
            for i, name in enumerate(names)
        ],
        "categories": [{"id": 3 * i, "name": word, "synset": "x.n.01"} for i, word in enumerate(words)],
        "annotations": [
            {
                "id": number,
                "image_id": 7 + names.index(name),
                "category_id": 3 * words.index(word),
                "bbox": [0, 0, 1, 1],
                "segmentation": {"size": [96, 96], "counts": as_runs(mask)},
            }
            for number, (name, word, mask) in enumerate(objects)
        ],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"


@pytest.mark.parametrize("write", [png_table, rle_table, coco])
def test_masks_of_the_shapes_world_judge_by_the_pixels_that_they_cover(
    write: Callable[..., Path], scenes: list[ImagePatches], tmp_path: Path
) -> None:
    objects, expected = [], {}
    for image in scenes:
        scene = read_scene(Path(image.path))
        for item, soft in zip(scene.objects, object_masks(scene), strict=True):
            mask = soft >= 0.5
            objects.append(("/".join(Path(image.path).parts[-2:]), item.noun, mask))
            tiles = mask.reshape(8, 12, 8, 12).sum(axis=(1, 3))
            for row, col in np.argwhere(tiles >= 72).tolist():
                expected.setdefault((image.image_id, row, col), set()).add(item.noun)
    judge = TruthFileJudge(write(tmp_path, objects), scenes, 0.5)
    found = {(image.image_id, *place): known for image in scenes for place, known in judged(judge, image).items()}
    assert found.keys() == expected.keys()
    for place, nouns in expected.items():
        right = frozenset(found[place]["right"])
        assert right == {form for noun in nouns for form in word_forms(noun)}
        assert fitting_words((min(nouns).upper(), "xyz"), right) == (min(nouns).upper(),)
    facts = judge.facts()["truth"]
    assert (facts["patches_seen"], facts["patches_covered"]) == (64 * len(scenes), len(expected))


# Written by pycocotools 2.0.11.
PATTERN = "0230000O1010L30M1160KO1010L30M11OO30M13ON031M000O"


def test_run_lengths_are_those_of_cocos_tools() -> None:
    small = np.zeros((7, 9), bool)
    small[1:3, 2:8] = small[3:6, 4] = True
    assert (mask_of_rle({"size": [7, 9], "counts": b"?25003MM30006"}, "x") == small).all()
    pattern = np.add.outer(np.arange(12) ** 2, np.arange(9) * 37) % 11 < 4
    assert (mask_of_rle({"size": [12, 9], "counts": PATTERN}, "x") == pattern).all()
    assert (mask_of_rle({"size": [12, 9], "counts": as_runs(pattern)}, "x") == pattern).all()
    triangle = [10.0, 10.0, 50.0, 10.0, 10.0, 35.0]
    assert abs(int(mask_of_polygons([triangle], 60, 40, "x").sum()) - 500) <= 10  # half of 40 x 25


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [2, 2], "counts": [1, 2]}, "3 pixels, expected 2 x 2"),
        ({"size": [2, 2], "counts": [5, -1]}, "expected lengths"),
        ({"size": [2, True], "counts": [4]}, r"expected \[height, width\]"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "expected at most"),
        ({"size": [2, 2], "counts": "4\x7f"}, "the sign"),
        ({"size": [2, 2], "counts": "o"}, "end within a number"),
        ({"size": [2, 2]}, "counts are None"),
        ("4", "size is None"),
    ],
)
def test_masks_that_are_none_are_refused(rle: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"here: .*{message}"):
        mask_of_rle(rle, "here")


def test_regions_agree_with_counting_fine_points() -> None:
    rng = np.random.default_rng(1)
    width, height, finer = 30, 20, 8
    for _ in range(20):
        x, y = np.sort(rng.integers(0, width + 1, 2)), np.sort(rng.integers(0, height + 1, 2))
        if x[0] == x[1] or y[0] == y[1]:
            continue
        mask = np.zeros((height, width), bool)
        mask[y[0] : y[1], x[0] : x[1]] = True
        box = BoxRegion((x[0] / width, y[0] / height, x[1] / width, y[1] / height), width, height)
        corners = np.sort(rng.random((2, 2)), axis=0)
        patch = (*corners[0], *corners[1])
        across = np.linspace(corners[0, 0], corners[1, 0], 401)[:-1] + (corners[1, 0] - corners[0, 0]) / 800
        down = np.linspace(corners[0, 1], corners[1, 1], 401)[:-1] + (corners[1, 1] - corners[0, 1]) / 800
        inside = mask[np.ix_((down * height).astype(int), (across * width).astype(int))]
        for region in (box, MaskRegion(mask), MaskRegion(mask.repeat(finer, 0).repeat(finer, 1))):
            assert region.coverage(np.array([patch]))[0] == pytest.approx(inside.mean(), abs=0.006)
            assert region.area == pytest.approx(mask.mean())
        if not inside.any():
            continue
        ends = [across * width - x[0] if x[0] else np.inf, x[1] - across * width if x[1] < width else np.inf]
        sides = [down * height - y[0] if y[0] else np.inf, y[1] - down * height if y[1] < height else np.inf]
        to_edge = np.minimum(np.broadcast_to(np.minimum(*ends), 400), np.broadcast_to(np.minimum(*sides), 400)[:, None])
        expected = to_edge[inside].mean() / np.sqrt(np.prod(corners[1] - corners[0]) * width * height)
        if np.isinf(expected):
            assert box.edge_distance(patch) is None
            assert MaskRegion(mask).edge_distance(patch) is None
        else:
            assert box.edge_distance(patch) == pytest.approx(expected, rel=0.02, abs=0.002)
            fine = MaskRegion(mask.repeat(finer, 0).repeat(finer, 1)).edge_distance(patch)
            assert fine == pytest.approx(expected, rel=0.05, abs=0.01)


def test_a_distance_is_an_area_weighted_mean_in_sides_of_the_patch() -> None:
    # A disc: the distance to its edge is its radius less that to its middle.
    y, x = np.mgrid[0:400, 0:400] + 0.5
    disc = np.hypot(x - 200, y - 200) < 150
    middle = MaskRegion(disc).edge_distance((0.475, 0.475, 0.525, 0.525))  # 20 x 20 pixels
    assert middle == pytest.approx((150 - 0.3826 * 20) / 20, rel=0.01)  # mean distance of a unit square to its middle
    assert MaskRegion(disc).edge_distance((0.0, 0.0, 0.05, 0.05)) is None


def test_one_object_has_to_cover_enough_and_the_nearest_edge_is_that_of_the_smallest(tmp_path: Path) -> None:
    image = image_patches(tmp_path / "photos" / "a.jpg")  # patches of 20 x 20 pixels
    rows = [
        ("a.jpg", 0, 0, 120, 40, "wall;wand"),  # rows 0 and 1
        ("a.jpg", 20, 0, 40, 20, "clocks"),  # patch 0, 1 wholly
        ("a.jpg", 0, 40, 9, 60, "cat"),  # less than half of patch 2, 0
        ("a.jpg", 9, 40, 19.5, 60, "dog"),  # half of it, and a little more
        ("a.jpg", 60, 60, 69, 80, "leg"),  # two that together cover patch 3, 3
        ("a.jpg", 69, 60, 78, 80, "leg"),
    ]
    table = tmp_path / "truth.tsv"
    header = "File_Name\txmin\tymin\txmax\tymax\tWord"
    table.write_text("\n".join([header, *("\t".join(map(str, row)) for row in rows)]))
    judge = TruthFileJudge(table, [image], 0.5)
    found = judged(judge, image)
    assert set(found) == {(row, col) for row in (0, 1) for col in range(6)} | {(2, 0)}
    assert set(found[0, 0]["right"]) >= {"wall", "walls", "wand"}
    assert {"clock", "clocks", "wall"} <= set(found[0, 1]["right"])
    assert found[0, 1]["edge_distance"] == pytest.approx(np.mean(edges_of_a_patch()), rel=0.01)
    assert found[0, 0]["edge_distance"] == pytest.approx(1.5)  # of the wall only the lower edge is in the image
    assert "dog" in found[2, 0]["right"]
    notes = judge.facts()["notes"]
    assert "24 patches of 1 image one object covers 50 % or more on 13; the other 11" in notes[1]
    assert "several objects cover so much of 1 patch" in notes[-1]
    assert set(judged(TruthFileJudge(table, [image], 0.9), image)) == set(found) - {(2, 0)}
    shares = tmp_path / "shares.jsonl"
    lines = [
        {"path": "photos/a.jpg", "x0": x0 / WIDE, "y0": y0 / HIGH, "x1": x1 / WIDE, "y1": y1 / HIGH, "words": word}
        for _, x0, y0, x1, y1, word in rows
    ]
    shares.write_text("\n".join(map(json.dumps, lines)))
    assert judged(TruthFileJudge(shares, [image], 0.5), image) == found


def edges_of_a_patch() -> np.ndarray:
    """Distances to the sides of a patch whose upper one is the image's border, in its sides."""
    places = (np.arange(200) + 0.5) / 200
    return np.minimum(np.minimum(places, 1 - places), (1 - places)[:, None])


def test_visual_genome_and_coco_are_read_as_they_are(tmp_path: Path) -> None:
    image = image_patches(tmp_path / "VG_100K" / "61512.jpg")
    genome = [
        {
            "image_id": 61512,
            "objects": [
                {"object_id": 1, "x": 0, "y": 0, "w": 60, "h": 90, "names": ["trees"], "synsets": ["oak_tree.n.01"]},
                {"object_id": 2, "x": 60, "y": 0, "w": 0, "h": 20, "names": ["pole"], "synsets": []},
                {"object_id": 3, "x": 60, "y": 0, "w": 60, "h": 80, "names": ["fire truck"], "synsets": []},
            ],
            "image_url": "https://cs.stanford.edu/people/rak248/VG_100K_2/61512.jpg",
        },
        {"image_id": 2, "objects": []},
    ]
    (tmp_path / "objects.json").write_text(json.dumps(genome))
    judge = TruthFileJudge(tmp_path / "objects.json", [image], 0.5)
    found = judged(judge, image)
    assert len(found) == 24
    assert {"tree", "trees", "oak tree", "oak trees"} <= set(found[0, 0]["right"])
    notes = "\n".join(judge.facts()["notes"])
    assert "names 2 images, 1 of the 1 analysed" in notes
    assert "boxes without an area, left out: 1" in notes
    assert "boxes that reach beyond their image by more than a pixel: 1" in notes
    assert "12 sampled patches of objects whose names all have several words" in notes
    assert "'fire truck'" in notes

    lvis = {
        "images": [{"id": 1, "file_name": "61512.jpg", "width": 2 * WIDE, "height": 2 * HIGH}],  # analysed at half size
        "categories": [
            {"id": 5, "name": "bow_(weapon)", "synonyms": ["bow_(weapon)", "longbow"], "synset": "bow.n.04"},
            {"id": 6, "name": "person"},
        ],
        "annotations": [
            {"image_id": 1, "category_id": 5, "bbox": [0, 0, 80, 80], "segmentation": [[0, 0, 80, 0, 80, 80, 0, 80]]},
            {"image_id": 1, "category_id": 5, "bbox": [80, 0, 40, 40]},
            {"image_id": 1, "category_id": 6, "bbox": [0, 0, 240, 160], "iscrowd": 1},
            {"image_id": 99, "category_id": 6, "bbox": [0, 0, 240, 160]},
        ],
    }
    (tmp_path / "lvis.json").write_text(json.dumps(lvis))
    judge = TruthFileJudge(tmp_path / "lvis.json", [image], 0.9)
    found = judged(judge, image)
    assert set(found) == {(0, 0), (0, 1), (1, 0), (1, 1), (0, 2)}
    assert set(found[0, 0]["right"]) == {"bow", "bows", "longbow", "longbows"}
    assert "regions of several objects at once (iscrowd), left out: 1 (person 1)" in "\n".join(judge.facts()["notes"])


def test_images_and_objects_are_found_under_the_names_that_older_versions_give_them(tmp_path: Path) -> None:
    image = image_patches(tmp_path / "val2017" / "000000565853.jpg")
    lvis = {  # version 0.5: the name is that of COCO 2014, the images are those of 2017
        "categories": [{"id": 1, "name": "wall"}],
        "annotations": [{"image_id": 565853, "category_id": 1, "bbox": [0, 0, 120, 40]}],
        "images": [
            {
                "id": 565853,
                "file_name": "COCO_val2014_000000565853.jpg",
                "coco_url": "http://images.cocodataset.org/val2017/000000565853.jpg",
                "width": WIDE,
                "height": HIGH,
            }
        ],
    }
    box = {"x": 0, "y": 0, "w": 120, "h": 40}
    genome = [{"id": 565853, "objects": [box | {"names": ["wall"]}, box | {"name": "tile"}]}]
    for name, content in (("lvis.json", lvis), ("objects.json", genome)):
        (tmp_path / name).write_text(json.dumps(content))
    found = judged(TruthFileJudge(tmp_path / "lvis.json", [image], 0.5), image)
    assert len(found) == 12
    older = image_patches(tmp_path / "val2014" / "COCO_val2014_000000565853.jpg")
    assert judged(TruthFileJudge(tmp_path / "lvis.json", [older], 0.5), older).keys() == found.keys()
    named = image_patches(tmp_path / "VG_100K" / "565853.jpg")
    of_genome = judged(TruthFileJudge(tmp_path / "objects.json", [named], 0.5), named)
    assert of_genome.keys() == found.keys()
    assert {"wall", "tile"} <= set(of_genome[0, 0]["right"])


BOX = "path,x0,y0,x1,y1,word\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", BOX + "a.jpg,0,0,2,2,\n", "line 2: found no word"),
        ("t.csv", BOX + "a.jpg,50,0,20,20,cat\n", "line 2: a box from 50, 0 to 20, 20; expected two corners"),
        ("t.csv", BOX + "a.jpg,0,0,nan,20,cat\n", "line 2: x1 is nan, expected a number"),
        ("t.csv", BOX + "a.jpg,0,0,wide,20,cat\n", "line 2: x1 is 'wide', expected a number"),
        ("t.csv", BOX + "a.jpg,0,0,500,20,cat\n", "line 2: a box from .*has 120 x 80 pixels"),
        ("t.csv", BOX + "a.jpg,0,0,50,20,cat\na.jpg,0,0,0.5,0.2,cat\n", "line 3: a box within the first pixel"),
        ("t.csv", BOX + "a.jpg,-0.5,0,0.5,0.2,cat\n", "line 2: a box with -0.5"),
        ("t.csv", "path,word\na.jpg,cat\n", "line 2: found neither a box nor a mask"),
        ("t.csv", "path,x0,y0,x1,y1\na.jpg,0,0,1,1\n", "no column 'word' or"),
        ("t.csv", BOX + "z.jpg,0,0,20,20,cat\n", "names none of the 1 analysed image, such as .*a.jpg"),
        ("t.csv", "path,mask,word\na.jpg,gone.png,cat\n", "line 2: the mask .*gone.png is not there"),
        ("t.csv", "path,mask,word\na.jpg,colour.png,cat\n", "line 2: the mask .*colour.png has 3 channels"),
        ("t.csv", "path,mask,word\na.jpg,turned.png,cat\n", "line 2: of an image of 80 x 120 pixels"),
        ("t.csv", "path,mask,word\na.jpg,t.csv,cat\n", "line 2: the mask .*t.csv cannot be read"),
        ("t.json", "{", "not JSON"),
        ("t.json", "9" * 5000, "not readable as JSON"),
        ("t.csv", "", "is empty, expected objects"),
        ("t.csv", BOX, "is empty, expected objects"),
        ("t.jsonl", "\n", "is empty, expected objects"),
        ("t.json", "[]", "is empty, expected objects"),
        ("t.json", "{}", "is empty, expected objects"),
        ("t.json", '{"images": [], "annotations": [], "categories": []}', "is empty, expected objects"),
        ("t.json", '{"images": []}', "JSON without images and annotations"),
        ("t.json", '"images"', "JSON of one value, expected an object or a list"),
        ("t.json", '{"images": [], "annotations": []}', "no categories"),
        ("t.json", '{"images": 3, "annotations": [], "categories": []}', "images is int, expected a list"),
        ("t.json", '[{"image_id": 1, "objects": 4}]', "objects is 4, expected list"),
        ("t.json", '[{"image_id": "a", "objects": [{"names": ["x"], "x": "1"}]}]', "object 1: a box of"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    Image.new("RGB", (WIDE, HIGH)).save(tmp_path / "colour.png")
    Image.new("L", (HIGH, WIDE)).save(tmp_path / "turned.png")
    image = image_patches(tmp_path / "photos" / "a.jpg")
    with pytest.raises(InputError, match=message) as refused:
        TruthFileJudge(tmp_path / name, [image], 0.5).qualifying(image)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / name))


def test_a_name_that_fits_two_images_is_refused(tmp_path: Path) -> None:
    images = [image_patches(tmp_path / folder / "a.jpg", number=n) for n, folder in enumerate(("train", "val"))]
    (tmp_path / "t.csv").write_text(BOX + "a.jpg,0,0,20,20,cat\n")
    with pytest.raises(InputError, match=r"line 2: the image 'a.jpg' may be .*train/a.jpg or .*val/a.jpg"):
        TruthFileJudge(tmp_path / "t.csv", images, 0.5)
    (tmp_path / "t.csv").write_text(BOX + "../val/a.jpg,0,0,20,20,cat\n")
    judge = TruthFileJudge(tmp_path / "t.csv", images, 0.5)
    assert [len(judge.qualifying(image)) for image in images] == [0, 1]
    in_table = image_patches(tmp_path / "photos.parquet" / "image" / "12-a.jpg")
    (tmp_path / "t.csv").write_text(BOX + "a.jpg,0,0,20,20,cat\n")
    assert len(TruthFileJudge(tmp_path / "t.csv", [in_table], 0.5).qualifying(in_table)) == 1


def test_specs(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text(BOX)
    assert ObjectsSpec.read("truth") is None
    assert ObjectsSpec.read("truth:noun") is None
    with pytest.raises(InputError, match="expected a table or JSON"):
        ObjectsSpec.read("truth:mask.png")
    spec = ObjectsSpec.read(f"truth:{tmp_path}/truth.csv")
    assert spec is not None
    before = spec.inputs
    (tmp_path / "truth.csv").write_text(BOX + "a.jpg,0,0,1,1,cat\n")
    assert spec.inputs != before
    (tmp_path / "truth.csv").unlink()
    with pytest.raises(InputError, match="no such file"):
        _ = spec.inputs


@pytest.mark.parametrize("write", [png_table, rle_table])
def test_a_changed_picture_of_a_mask_is_another_run(write: Callable[..., Path], tmp_path: Path) -> None:
    mask = np.zeros((HIGH, WIDE), bool)
    mask[:40] = True
    table = write(tmp_path, [("a.jpg", "cat", mask), ("b.jpg", "dog", mask)])
    spec = ObjectsSpec.read(f"truth:{table}")
    assert spec is not None
    before = spec.inputs
    assert ("masks" in before["truth"]) == (write is png_table)
    if write is png_table:
        Image.fromarray(~mask).convert("L").save(tmp_path / "mask1.png")
        assert spec.inputs != before
        (tmp_path / "mask1.png").unlink()
        assert "masks" in spec.inputs["truth"]  # the image may be none of the analysed ones
        (tmp_path / "mask1.png").mkdir()
    assert spec.inputs.keys() == before.keys()


def test_word_forms() -> None:
    pairs = {"tree": "trees", "box": "boxes", "pony": "ponies", "knife": "knives", "leaf": "leaves", "man": "men"}
    pairs |= {"fireman": "firemen", "child": "children", "potato": "potatoes", "bus": "buses", "glass": "glasses"}
    pairs |= {"shoe": "shoes", "toe": "toes", "horse": "horses", "traffic light": "Traffic  Lights", "person": "people"}
    for one, many in pairs.items():
        assert " ".join(many.split()).casefold() in word_forms(one), one
        assert one in word_forms(many), many
    for word, wrong in {
        "bus": "bu",
        "lens": "len",
        "grass": "gras",
        "toes": "to",
        "shoes": "sho",
        "news": "new",
    }.items():
        assert wrong not in word_forms(word)
