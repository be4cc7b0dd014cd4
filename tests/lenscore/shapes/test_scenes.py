"""Scenes, pictures and truth: the same everywhere, apart between splits, exact by pixels."""

import csv
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lenscore.shapes import patch_truth, read_scene, write_images
from lenscore.shapes.outlines import OUTLINES
from lenscore.shapes.rendering import object_masks, render
from lenscore.shapes.scenes import IMAGE_SIZE, Scene, SceneObject, sample_scene, split_of
from lenscore.shapes.truth import coverage
from lenscore.shapes.vocabulary import COLOURS, NOUNS

SPLITS = ("train", "validation", "test")


def test_scenes_and_pixels_never_change():
    """The shipped weights and everybody's measures depend on these bytes: a new version may not move them."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for index in range(20):
            scene = sample_scene(split, index, seed=3)
            assert scene == sample_scene(split, index, seed=3)
            digest.update(repr(scene).encode())
            digest.update(render(scene).tobytes())
    assert digest.hexdigest()[:16] == "9183222287fc9728"


def test_splits_share_no_scene():
    seen = {split: {sample_scene(split, index, seed) for index in range(60) for seed in (0, 1)} for split in SPLITS}
    for split, scenes in seen.items():
        assert len(scenes) == 120
        assert {split_of(scene) for scene in scenes} == {split}


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="train, validation, test"):
        sample_scene("dev", 0)


def test_objects_lie_inside_and_apart():
    for index in range(100):
        covered = object_masks(sample_scene("validation", index))
        assert (covered.sum(axis=(1, 2)) > 0).all()
        assert (covered.sum(axis=0) <= 1).all()


@settings(max_examples=40, deadline=None)
@given(index=st.integers(0, 10_000), edges=st.tuples(*[st.integers(0, 2 * IMAGE_SIZE)] * 4))
def test_truth_equals_counting_pixels(index, edges):
    """Oracle: render the scene without noise on a raster twice as fine and count its points one by one."""
    left, right = sorted(edges[:2])
    top, bottom = sorted(edges[2:])
    if left == right or top == bottom:
        return
    scene = sample_scene("validation", index)
    counts = [0.0] * len(scene.objects)
    for number, mask in enumerate(object_masks(scene)):
        for y in range(top, bottom):
            counts[number] += sum(float(mask[y // 2, x // 2]) for x in range(left, right))
    area = (right - left) * (bottom - top)
    box = tuple(edge / (2 * IMAGE_SIZE) for edge in (left, top, right, bottom))
    np.testing.assert_allclose(coverage(scene, np.array([box]))[0], [count / area for count in counts], atol=1e-9)

    truth = patch_truth(scene, box)
    shares = [count / area for count in counts]
    if truth.kind == "object":
        best = scene.objects[int(np.argmax(shares))]
        assert truth.share == pytest.approx(max(shares))
        assert truth.aspects["noun"] == NOUNS[best.noun].words
        assert truth.aspects["colour"] == set(COLOURS[best.colour].words)
    else:
        assert truth.share == pytest.approx(1 - sum(shares))
        assert truth.share > max(shares, default=0) - 1e-9
        assert {"background", "canvas"} <= truth.aspects["noun"]
        assert truth.aspects["colour"] == set(COLOURS[scene.background].words)


def test_masks_are_where_the_picture_shows_the_object():
    """A pixel that an object fills has its colour (black on white here), a pixel without it the background's."""
    for noun in OUTLINES:
        scene = Scene("white", (SceneObject(noun, "black", "plain", "large", 20, 30, 48, 0),), noise_seed=1)
        mask, brightness = object_masks(scene)[0], render(scene).mean(axis=2)
        assert brightness[mask == 1].max() < 80
        assert brightness[mask == 0].min() > 200
        assert (mask == 1).sum() > 300


@pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (0, 0.9, 1, 0.1), (-0.1, 0, 1, 1), (0, 0, 1.01, 1)])
def test_impossible_boxes_are_refused(box):
    with pytest.raises(ValueError, match="expected 0 <= left"):
        patch_truth(sample_scene("train", 0), box)


def test_pictures_carry_their_scene(tmp_path):
    paths = write_images(tmp_path / "images", "test", 3, seed=5)
    assert [path.name for path in paths] == ["test-00000.png", "test-00001.png", "test-00002.png"]
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [
        "captions.csv",
        *(path.name for path in paths),
    ]
    for index, path in enumerate(paths):
        scene = read_scene(path)
        assert scene == sample_scene("test", index, seed=5)
        assert np.array_equal(np.asarray(Image.open(path)), render(scene))
    with (tmp_path / "images" / "captions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [path.name for path in paths]
    assert all(row["caption"].endswith(".") for row in rows)


def test_changed_or_foreign_pictures_are_refused(tmp_path):
    (path,) = write_images(tmp_path, "test", 1)
    with Image.open(path) as image:
        pixels, text = np.array(image), image.text
    pixels[40, 40, 1] ^= 1
    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    Image.fromarray(pixels).save(tmp_path / "tampered.png", pnginfo=info)
    with pytest.raises(ValueError, match=r"tampered\.png: the pixels differ"):
        read_scene(tmp_path / "tampered.png")

    Image.fromarray(pixels).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="no text chunk"):
        read_scene(tmp_path / "photo.png")

    info = PngInfo()
    info.add_text("lenscore.shapes.scene", '{"background": "ultraviolet", "objects": [], "noise_seed": 0}')
    Image.fromarray(pixels).save(tmp_path / "odd.png", pnginfo=info)
    with pytest.raises(ValueError, match="ultraviolet"):
        read_scene(tmp_path / "odd.png")

    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="not a readable image"):
        read_scene(tmp_path / "text.png")
