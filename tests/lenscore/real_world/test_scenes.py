"""Scenes: the truth that is written is that of the pixels."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from lenscore.judging.truth_files.run_length import run_lengths_of
from lenscore.real_world.artwork_scenes import SIDE, draw, nouns, read_artwork, write_scenes
from storage_layouts.errors import InputError


def test_scenes_are_functions_of_seed_and_number(artwork_package: Path, tmp_path: Path) -> None:
    artwork = read_artwork(artwork_package)
    assert {picture.noun for picture in artwork} == set(nouns())
    write_scenes(tmp_path / "five", artwork, 3, 5)
    write_scenes(tmp_path / "nine", artwork, 3, 9)
    for index in range(5):
        name = f"scene-{index:05d}.png"
        assert (tmp_path / "five" / name).read_bytes() == (tmp_path / "nine" / name).read_bytes()
    assert draw(artwork, 3, 0).caption != draw(artwork, 4, 0).caption


def test_masks_are_where_the_objects_are_seen(artwork_package: Path) -> None:
    """Drawn pictures have one colour each, so an object is where its colour is."""
    artwork = read_artwork(artwork_package)
    for index in range(20):
        scene = draw(artwork, 0, index)
        assert 1 <= len(scene.objects) <= 4
        assert len({picture.noun for picture in scene.objects}) == len(scene.objects)
        assert scene.masks.sum(axis=0).max() == 1
        pixels = np.asarray(scene.image).astype(int)
        for picture, mask in zip(scene.objects, scene.masks, strict=True):
            colour = np.asarray(picture.image)[picture.image.height // 2, picture.image.width // 2, :3].astype(int)
            # Resampling mixes colours at an edge, on both sides of it.
            seen = np.abs(pixels - colour).max(axis=-1) <= 12
            assert seen[binary_erosion(mask, iterations=8)].all()
            beside = binary_dilation(mask, iterations=12) & ~binary_dilation(mask, iterations=8)
            assert seen[beside].mean() < 0.1


def test_a_cell_belongs_to_the_object_that_covers_half_of_it(artwork_package: Path) -> None:
    scene = draw(read_artwork(artwork_package), 0, 2)
    cells = scene.cells(8)
    side = SIDE // 8
    for row in range(8):
        for column in range(8):
            box = scene.masks[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
            covered = [float(mask.mean()) for mask in box]
            expected = next((i for i, share in enumerate(covered) if share >= 0.5), -1)
            assert cells[row, column] == expected


def test_the_truth_file_gives_back_every_pixel(artwork_package: Path, tmp_path: Path) -> None:
    artwork = read_artwork(artwork_package)
    write_scenes(tmp_path, artwork, 1, 4)
    truth = json.loads((tmp_path / "truth.json").read_text())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    with (tmp_path / "captions.csv").open(newline="") as table:
        captions = {line["path"]: line["caption"] for line in csv.DictReader(table)}
    for image in truth["images"]:
        assert Image.open(tmp_path / image["file_name"]).size == (image["width"], image["height"])
        scene = draw(artwork, 1, image["id"])
        its = [annotation for annotation in truth["annotations"] if annotation["image_id"] == image["id"]]
        assert [names[annotation["category_id"]] for annotation in its] == [p.noun for p in scene.objects]
        for annotation, mask in zip(its, scene.masks, strict=True):
            counts, values = annotation["segmentation"]["counts"], [False, True]
            pixels = np.concatenate([np.full(n, values[i % 2]) for i, n in enumerate(counts)])
            assert np.array_equal(pixels.reshape(SIDE, SIDE).T, mask)
            left, top, width, height = annotation["bbox"]
            assert mask[top : top + height, left : left + width].sum() == mask.sum() == annotation["area"]
        for picture in scene.objects:
            assert picture.noun in captions[image["file_name"]]


def test_run_lengths_begin_with_what_is_outside() -> None:
    assert run_lengths_of(np.array([[True, False], [True, True]])) == [0, 2, 1, 1]
    assert run_lengths_of(np.array([[False, False], [True, False]])) == [1, 1, 2]


def test_a_package_without_a_picture_is_refused(tmp_path: Path, artwork_package: Path) -> None:
    with tarfile.open(artwork_package) as whole, tarfile.open(tmp_path / "less.tgz", "w:gz") as less:
        listed = whole.extractfile("package/emoji.json")
        assert listed is not None
        few = json.dumps([emoji for emoji in json.load(listed) if emoji["short_name"] != "zebra_face"]).encode()
        member = tarfile.TarInfo("package/emoji.json")
        member.size = len(few)
        less.addfile(member, io.BytesIO(few))
        for entry in whole.getmembers():
            if entry.name.endswith(".png"):
                less.addfile(entry, whole.extractfile(entry))
    with pytest.raises(InputError, match=r"has no picture 'zebra_face', which nouns.csv names"):
        read_artwork(tmp_path / "less.tgz")
